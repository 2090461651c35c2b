"""Rows in, labels and probabilities out. Synchronous; nothing here knows of threads or requests."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from iris_api.inference.shortcuts import probabilities_of

FEATURE_NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
"""The columns of a row, in order; each in centimetres."""
Row = tuple[float, float, float, float]


class ClassPrediction(NamedTuple):
    """A classifier's answer for one row."""

    prediction: int
    """The class, as its position in the classifier's classes."""
    label: str
    probabilities: dict[str, float] | None
    """By label, in the order of the classes, with the sum 1; None where nobody computed them."""
    model_version: str | None


class Classifier:
    """A fitted scikit-learn classifier with the names of its classes.

    A linear model answers a row alone and the same row within a batch with probabilities that may
    differ in their last bits (BLAS sums in another order); they agree within 1e-9.
    """

    def __init__(self, estimator: Any, *, classes: Sequence[str], version: str) -> None:
        self.estimator = estimator
        self._probabilities_of = probabilities_of(estimator)
        self.classes = tuple(classes)
        self.version = version

    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        """Classify the rows, shape (n, 4), in centimetres, in the order of `FEATURE_NAMES`."""
        probabilities = self._probabilities_of(rows)
        winners = probabilities.argmax(axis=1).tolist()
        classes, version = self.classes, self.version
        return [
            ClassPrediction(winner, classes[winner], dict(zip(classes, row, strict=True)), version)
            for winner, row in zip(winners, probabilities.tolist(), strict=True)
        ]
