"""Turns rows into labels and probabilities. Synchronous: no threads, no requests."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iris_api.errors import NotPredicted
from iris_api.inference.columns import Arrangement
from iris_api.inference.fast_proba import probabilities_of
from iris_api.iris import ClassPrediction


class Classifier:
    """A fitted scikit-learn classifier with the names of its classes.

    For a linear model, the probabilities of a row alone and of the same row in a batch may differ
    in their last bits, because BLAS sums in another order; they agree within 1e-9. ``arrangement``
    makes the estimator's input of the rows; None: it takes them as they are.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        classes: Sequence[str],
        version: str,
        arrangement: Arrangement | None = None,
    ) -> None:
        self.estimator = estimator
        self.probabilities = probabilities_of(estimator, arrangement)
        """The function from rows, shape (n, features), to probabilities, shape (n, classes)."""
        self.classes = tuple(classes)
        self.version = version

    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        """Classify rows, shape (n, features), in the order of `iris_api.iris.FEATURE_NAMES`.

        Raises `NotPredicted`, with their positions, if the probabilities of rows are NaN.
        """
        probabilities = self.probabilities(rows)
        if not math.isfinite(probabilities.sum()):
            without = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
            raise NotPredicted(self.version, without.tolist())
        winners = probabilities.argmax(axis=1).tolist()
        classes, version = self.classes, self.version
        return [
            ClassPrediction(winner, classes[winner], dict(zip(classes, row, strict=True)), version)
            for winner, row in zip(winners, probabilities.tolist(), strict=True)
        ]
