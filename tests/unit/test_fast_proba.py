from copy import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from iris_api.inference.columns import Arrangement
from iris_api.inference.fast_proba import probabilities_of

DATA = load_iris()
ROWS = st.lists(st.tuples(*[st.floats(0.001, 100)] * 4), min_size=1, max_size=40)


def fitted(estimator: Any, *, rows: slice = slice(None)) -> Any:
    return estimator.fit(DATA.data[rows], DATA.target[rows])


ESTIMATORS = {
    "random forest": fitted(RandomForestClassifier(100, random_state=0)),
    "extremely random forest": fitted(ExtraTreesClassifier(30, random_state=0)),
    "forest of two classes": fitted(RandomForestClassifier(7, random_state=0), rows=slice(100)),
    "forest of stumps": fitted(RandomForestClassifier(20, max_depth=1, random_state=0)),
    "linear discriminant": fitted(LinearDiscriminantAnalysis()),
    "shrunken discriminant": fitted(LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5)),
    "logistic": fitted(LogisticRegression(C=10, max_iter=2000)),
    "logistic, newton": fitted(LogisticRegression(solver="newton-cg", max_iter=2000)),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_probabilities_of_a_fast_estimator_equal_predict_proba(
    name: str, rows: list[tuple[float, ...]]
) -> None:
    matrix = np.array(rows)
    shorter = probabilities_of(ESTIMATORS[name])
    assert shorter != ESTIMATORS[name].predict_proba
    np.testing.assert_array_equal(shorter(matrix), ESTIMATORS[name].predict_proba(matrix))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_probabilities_of_columns_in_another_order_equal_predict_proba(name: str) -> None:
    """The faster equivalent is used all the same."""
    order = [3, 1, 0, 2]
    estimator = copy(ESTIMATORS[name])
    estimator.predict_proba = None
    probabilities = probabilities_of(estimator, Arrangement(order))(DATA.data)
    expected = ESTIMATORS[name].predict_proba(DATA.data[:, order])
    np.testing.assert_array_equal(probabilities, expected)


class Renamed(RandomForestClassifier):  # type: ignore[misc]
    """A subclass may answer otherwise, so it is asked itself."""


@pytest.mark.parametrize(
    ("estimator", "rows"),
    [
        (GaussianNB(), 150),
        (Renamed(3), 150),
        (LinearDiscriminantAnalysis(), 100),
        (LogisticRegression(max_iter=2000), 100),
        (LogisticRegression(solver="liblinear"), 100),
    ],
)
def test_probabilities_of_any_other_estimator_is_its_predict_proba(
    estimator: Any, rows: int
) -> None:
    estimator = fitted(estimator, rows=slice(rows))
    assert probabilities_of(estimator) == estimator.predict_proba
