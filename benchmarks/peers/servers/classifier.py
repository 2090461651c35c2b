"""The one inference step that every peer runs, so that only the servers differ."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

Row = Sequence[float]


class Classifier:
    """A scikit-learn classifier read from a joblib file."""

    def __init__(self, artifact: Path | str) -> None:
        self._estimator = joblib.load(artifact)
        self._labels: list[Any] = self._estimator.classes_.tolist()

    def classify(self, rows: Sequence[Row] | NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return a label and the class probabilities for each row, from one model call."""
        probabilities = self._estimator.predict_proba(np.asarray(rows, dtype=np.float64))
        best = probabilities.argmax(axis=1).tolist()
        return [
            {"label": self._labels[index], "probabilities": row}
            for index, row in zip(best, probabilities.tolist(), strict=True)
        ]


def setting(name: str) -> str:
    """Read one PEER_* variable that peers.py hands to every server."""
    try:
        return os.environ[name]
    except KeyError:
        raise RuntimeError(
            f"The variable {name} is not set: start this server through peers.serving(), "
            f"or export {name} first."
        ) from None
