import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.support.flowers import SETOSA

from iris_api.database.models import IrisPrediction
from iris_api.database.schema import MAX_BATCH_ITEMS, IrisFeatures, IrisFeaturesBatch
from iris_api.iris import FEATURE_NAMES, LABELS, ClassPrediction

MEASURES = st.floats(0, 100, exclude_min=True) | st.integers(1, 100)
NUMBERS_OUTSIDE = (
    st.floats(max_value=0)
    | st.floats(min_value=100, exclude_min=True)
    | st.integers(max_value=0)
    | st.integers(min_value=101)
    | st.sampled_from([math.nan, math.inf, -math.inf, 10**400, math.nextafter(100, 101)])
)
OTHER_JSON = (
    st.none()
    | st.booleans()
    | st.text()
    | st.floats(0.1, 100).map(str)
    | st.lists(MEASURES, max_size=1)
    | st.dictionaries(st.text(max_size=3), MEASURES, max_size=1)
)


@given(st.fixed_dictionaries(dict.fromkeys(FEATURE_NAMES, MEASURES)))
def test_iris_features_with_finite_numbers_above_0_up_to_100_are_accepted(
    values: dict[str, float],
) -> None:
    expected = tuple(float(values[name]) for name in FEATURE_NAMES)
    assert IrisFeatures.model_validate(values).as_row() == expected
    assert IrisFeatures.model_validate_json(json.dumps(values)).as_row() == expected


@given(st.sampled_from(FEATURE_NAMES), NUMBERS_OUTSIDE | OTHER_JSON)
def test_iris_features_with_any_other_value_are_refused_by_field(name: str, value: Any) -> None:
    values = {**SETOSA, name: value}
    with pytest.raises(ValidationError) as refusal:
        IrisFeatures.model_validate(values)
    assert [error["loc"] for error in refusal.value.errors()] == [(name,)]
    with pytest.raises(ValidationError) as refusal:
        IrisFeatures.model_validate_json(json.dumps(values))
    assert [error["loc"] for error in refusal.value.errors()] == [(name,)]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e-999", "0.0", "-0"])
def test_iris_features_with_a_json_number_out_of_float_range_are_refused(number: str) -> None:
    text = json.dumps(SETOSA).replace("5.1", number)
    with pytest.raises(ValidationError):
        IrisFeatures.model_validate_json(text)


@pytest.mark.parametrize("name", FEATURE_NAMES)
def test_iris_features_with_a_missing_feature_are_refused(name: str) -> None:
    values = {key: value for key, value in SETOSA.items() if key != name}
    with pytest.raises(ValidationError, match="missing"):
        IrisFeatures.model_validate(values)


@given(st.text().filter(lambda name: name not in FEATURE_NAMES))
def test_iris_features_with_an_unknown_field_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        IrisFeatures.model_validate({**SETOSA, name: 1.0})


@pytest.mark.parametrize("count", [1, MAX_BATCH_ITEMS])
def test_iris_features_batch_holds_up_to_10000_items(count: int) -> None:
    assert len(IrisFeaturesBatch.model_validate({"items": [SETOSA] * count}).items) == count


@pytest.mark.parametrize("count", [0, MAX_BATCH_ITEMS + 1])
def test_iris_features_batch_with_no_or_too_many_items_is_refused(count: int) -> None:
    with pytest.raises(ValidationError):
        IrisFeaturesBatch.model_validate({"items": [SETOSA] * count})


def test_iris_prediction_from_request_holds_the_features_and_the_prediction() -> None:
    probabilities = {"rose": 0.25, "tulip": 0.75}
    answer = ClassPrediction(1, "tulip", probabilities, "custom-1")
    row = IrisPrediction.from_request(IrisFeatures.model_validate(SETOSA), answer)
    assert {name: getattr(row, name) for name in SETOSA} == SETOSA
    assert (row.prediction, row.prediction_label) == (1, "tulip")
    assert (row.probabilities, row.model_version) == (probabilities, "custom-1")


@pytest.mark.parametrize(("index", "label"), list(enumerate(LABELS)))
def test_iris_prediction_from_request_with_a_bare_class_has_a_label_and_no_model_version(
    index: int, label: str
) -> None:
    row = IrisPrediction.from_request(IrisFeatures.model_validate(SETOSA), index)
    assert (row.prediction, row.prediction_label) == (index, label)
    assert row.probabilities is None
    assert row.model_version is None


@pytest.mark.parametrize("index", [-1, 3])
def test_iris_prediction_from_request_with_a_nonexistent_class_is_an_index_error(
    index: int,
) -> None:
    with pytest.raises(IndexError):
        IrisPrediction.from_request(IrisFeatures.model_validate(SETOSA), index)
