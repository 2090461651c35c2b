"""Turns rows into labels and probabilities. Synchronous: no threads, no requests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_api.inference.fast_proba import probabilities_of
from iris_api.iris import ClassPrediction


class Classifier:
    """A fitted scikit-learn classifier with the names of its classes.

    For a linear model, the probabilities of a row alone and of the same row in a batch may differ
    in their last bits, because BLAS sums in another order; they agree within 1e-9.
    """

    def __init__(self, estimator: Any, *, classes: Sequence[str], version: str) -> None:
        self.estimator = estimator
        self._probabilities_of = probabilities_of(estimator)
        self.classes = tuple(classes)
        self.version = version

    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        """Classify rows, shape (n, features), in the order of `iris_api.iris.FEATURE_NAMES`."""
        probabilities = self._probabilities_of(rows)
        winners = probabilities.argmax(axis=1).tolist()
        classes, version = self.classes, self.version
        return [
            ClassPrediction(winner, classes[winner], dict(zip(classes, row, strict=True)), version)
            for winner, row in zip(winners, probabilities.tolist(), strict=True)
        ]
