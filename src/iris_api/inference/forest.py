"""A forest's probabilities, straight from its trees."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

Probabilities = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def probabilities_of(estimator: Any) -> Probabilities:
    """The estimator's ``predict_proba``, for a forest by a shorter way to the very same numbers.

    For one row as for hundreds, scikit-learn spends 13 times as long on validating the rows and
    dispatching a task for each tree as the trees take to answer (100 trees: 4.4 ms against 0.33).
    The rows must be finite, of shape (n, features); they are not looked at again.
    """
    if type(estimator) not in {RandomForestClassifier, ExtraTreesClassifier}:
        predict_proba: Probabilities = estimator.predict_proba
        return predict_proba
    trees = [tree.tree_ for tree in estimator.estimators_]
    shape = len(estimator.classes_)

    def mean_of_trees(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum in the order of the trees, then divide, as ``predict_proba`` does with one job."""
        single = np.ascontiguousarray(rows, dtype=np.float32)  # what trees compare with
        total = np.zeros((len(rows), shape))
        for tree in trees:
            total += tree.predict(single)
        return total / len(trees)

    return mean_of_trees
