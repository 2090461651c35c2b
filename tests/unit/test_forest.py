from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from iris_api.inference.forest import probabilities_of

DATA = load_iris()
ROWS = st.lists(st.tuples(*[st.floats(0.001, 100)] * 4), min_size=1, max_size=40)


def fitted(estimator: Any, *, rows: slice = slice(None)) -> Any:
    return estimator.fit(DATA.data[rows], DATA.target[rows])


FORESTS = {
    "random": fitted(RandomForestClassifier(100, random_state=0)),
    "extremely random": fitted(ExtraTreesClassifier(30, random_state=0)),
    "of two classes": fitted(RandomForestClassifier(7, random_state=0), rows=slice(100)),
    "of stumps": fitted(RandomForestClassifier(20, max_depth=1, random_state=0)),
}


@pytest.mark.parametrize("name", FORESTS)
@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_the_trees_give_the_very_numbers_of_predict_proba(
    name: str, rows: list[tuple[float, ...]]
) -> None:
    matrix = np.array(rows)
    shorter = probabilities_of(FORESTS[name])
    assert shorter != FORESTS[name].predict_proba
    np.testing.assert_array_equal(shorter(matrix), FORESTS[name].predict_proba(matrix))


class Renamed(RandomForestClassifier):  # type: ignore[misc]
    """A subclass may answer otherwise, so it is asked itself."""


@pytest.mark.parametrize("estimator", [LinearDiscriminantAnalysis(), Renamed(3)])
def test_every_other_estimator_is_asked_itself(estimator: Any) -> None:
    estimator = fitted(estimator)
    assert probabilities_of(estimator) == estimator.predict_proba
