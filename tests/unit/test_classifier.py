import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from iris_api.errors import NotPredicted
from iris_api.inference import Classifier
from iris_api.inference.training import CANDIDATES

Rows = NDArray[np.float64]


@pytest.fixture(scope="module", params=list(CANDIDATES))
def fitted(request: pytest.FixtureRequest, rows: Rows, targets: NDArray[np.int64]) -> Any:
    return clone(CANDIDATES[request.param]).fit(rows, targets)


@pytest.fixture
def classifier(fitted: Any, labels: list[str]) -> Classifier:
    return Classifier(fitted, classes=labels, version="test-1")


def test_classifier_predict_equals_scikit_learn(
    classifier: Classifier, fitted: Any, rows: Rows, labels: list[str]
) -> None:
    answers = classifier.predict(rows)
    assert [answer.prediction for answer in answers] == fitted.predict(rows).tolist()
    assert [answer.label for answer in answers] == [labels[i] for i in fitted.predict(rows)]
    assert [answer.probabilities for answer in answers] == [
        dict(zip(labels, row, strict=True)) for row in fitted.predict_proba(rows).tolist()
    ]
    assert {answer.model_version for answer in answers} == {"test-1"}


def test_classifier_predict_of_one_row_equals_its_prediction_in_a_batch(
    classifier: Classifier, rows: Rows
) -> None:
    sample = rows[::15]
    for row, within in zip(sample, classifier.predict(sample), strict=True):
        [alone] = classifier.predict(row.reshape(1, -1))
        assert alone.label == within.label
        assert alone.probabilities == pytest.approx(within.probabilities, abs=1e-9)


def test_classifier_predict_keeps_the_order_of_the_rows(classifier: Classifier, rows: Rows) -> None:
    order = np.random.default_rng(0).permutation(len(rows))
    in_order = [answer.label for answer in classifier.predict(rows)]
    assert [answer.label for answer in classifier.predict(rows[order])] == [
        in_order[position] for position in order
    ]


class Blind(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn has no types
    """Gives NaN for petals longer than 50 cm."""

    def predict_proba(self, rows: Rows) -> Any:
        probabilities = super().predict_proba(rows)
        probabilities[rows[:, 2] > 50] = np.nan
        return probabilities


def test_classifier_predict_of_rows_without_probabilities_names_their_positions(
    rows: Rows, targets: NDArray[np.int64], labels: list[str]
) -> None:
    classifier = Classifier(Blind().fit(rows, targets), classes=labels, version="blind-1")
    some = rows[:6].copy()
    some[[1, 4], 2] = 51
    with pytest.raises(
        NotPredicted, match=r"blind-1 gives no .* for items\[1\], items\[4\]"
    ) as info:
        classifier.predict(some)
    assert info.value.items == [1, 4]


def test_classifier_predict_gives_plain_probabilities_with_sum_1(
    classifier: Classifier, rows: Rows
) -> None:
    for answer in classifier.predict(rows):
        assert answer.probabilities is not None
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert json.loads(json.dumps(answer.probabilities)) == answer.probabilities
        assert type(answer.prediction) is int
