"""A faster ``predict_proba``, with the same results bit by bit.

For a few rows, ``predict_proba`` spends nearly all of its time on validating its input and, in a
forest, on dispatching a task for each tree: 4.6 of 4.9 ms for 100 trees, 0.09 of 0.10 ms for a
linear discriminant. This service's rows are already finite and of the right shape, so the functions
below do only the arithmetic. Tests compare the results bit by bit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import softmax

from iris_api.inference.columns import Arrangement, Matrix

Probabilities = Callable[[Matrix], Matrix]
_BINARY = 2  # two classes need another formula


def probabilities_of(estimator: Any, arrangement: Arrangement | None = None) -> Probabilities:
    """The estimator's ``predict_proba`` for rows of shape (n, features), or a faster equivalent."""
    if arrangement is None:
        return _faster(estimator)
    if arrangement.make_frame is not None:
        return lambda rows: estimator.predict_proba(arrangement(rows))
    faster = _faster(estimator)
    return faster if arrangement.order is None else lambda rows: faster(arrangement(rows))


def _faster(estimator: Any) -> Probabilities:
    """A subclass keeps its own ``predict_proba``: its results may differ from its parent's."""
    kind = type(estimator)
    if kind in {RandomForestClassifier, ExtraTreesClassifier}:
        return _mean_of_trees(estimator)
    is_softmax = kind is LinearDiscriminantAnalysis or (
        kind is LogisticRegression and estimator.solver != "liblinear"
    )
    if is_softmax and len(estimator.classes_) > _BINARY:
        return _softmax_of_scores(estimator)
    predict_proba: Probabilities = estimator.predict_proba
    return predict_proba


def _mean_of_trees(forest: Any) -> Probabilities:
    trees = [tree.tree_ for tree in forest.estimators_]
    classes = len(forest.classes_)

    def mean_of_trees(rows: Matrix) -> Matrix:
        """Sum in the order of the trees, then divide, as scikit-learn does with one job."""
        single = np.ascontiguousarray(rows, dtype=np.float32)  # trees compare in float32
        total = np.zeros((len(rows), classes))
        for tree in trees:
            total += tree.predict(single)
        return total / len(trees)

    return mean_of_trees


def _softmax_of_scores(linear: Any) -> Probabilities:
    weights, intercept = linear.coef_.T, linear.intercept_

    def softmax_of_scores(rows: Matrix) -> Matrix:
        probabilities: Matrix = softmax(rows @ weights + intercept, copy=False)
        return probabilities

    return softmax_of_scores
