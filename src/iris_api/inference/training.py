"""Training: compare candidates, examine the winner's calibration, write the ML model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from iris_api.inference.dataset import load_dataset
from iris_api.inference.manifest import Manifest, Scores
from iris_api.inference.saving import save_artifact
from iris_api.iris import LABELS

SEED = 0
_FOLDS = 5
_REPEATS = 3
_BINS = 10

CANDIDATES: dict[str, Any] = {
    "linear-discriminant": LinearDiscriminantAnalysis(),
    "quadratic-discriminant": QuadraticDiscriminantAnalysis(),
    "logistic-regression": LogisticRegression(C=10, max_iter=1000),
    "nearest-neighbours": KNeighborsClassifier(n_neighbors=15),
    "random-forest": RandomForestClassifier(n_estimators=100, random_state=SEED),
}
"""The choices of `train`. A forest's ``n_jobs`` stays 1, because more is slower on single rows."""

CALIBRATIONS = ("sigmoid", "isotonic", "temperature")
"""The methods of scikit-learn's `CalibratedClassifierCV`, each tried on the winner."""


def train(
    folder: Path,
    *,
    candidate: str | None = None,
    report: Callable[[str, Scores], None] = lambda _name, _scores: None,
) -> Manifest:
    """Choose a classifier by cross-validated log loss, fit it on all rows, write it to ``folder``.

    ``candidate`` names one of `CANDIDATES` and skips the choice. ``report`` gets each name with its
    scores when they are known. Deterministic: the same libraries write the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    rows, classes = load_dataset()
    names = [candidate] if candidate else list(CANDIDATES)
    scores = {}
    with threadpool_limits(limits=1):  # more threads slow down so small a task
        for name in names:
            scores[name] = cross_validated(CANDIDATES[name], rows, classes)
            report(name, scores[name])
        winner = min(scores, key=lambda name: scores[name].log_loss)
        estimator, calibration = _calibrate_if_better(winner, rows, classes, scores, report)
    return save_artifact(
        estimator.fit(rows, classes),
        rows,
        LABELS,
        folder,
        name=winner,
        scores=scores,
        calibration=calibration,
    )


def cross_validated(
    estimator: Any, rows: NDArray[np.float64], classes: NDArray[np.int64]
) -> Scores:
    """Score an estimator on rows that it was not fitted on: 5 folds, shuffled 3 times."""
    probabilities = np.concatenate(
        [
            cross_val_predict(
                clone(estimator),
                rows,
                classes,
                cv=StratifiedKFold(_FOLDS, shuffle=True, random_state=SEED + repeat),
                method="predict_proba",
            )
            for repeat in range(_REPEATS)
        ]
    )
    truth = np.tile(classes, _REPEATS)
    return Scores(
        accuracy=accuracy_score(truth, probabilities.argmax(axis=1)),
        log_loss=log_loss(truth, probabilities),
        brier_score=brier_score_loss(truth, probabilities, scale_by_half=False),
        calibration_error=calibration_error(truth, probabilities),
    )


def calibration_error(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Expected calibration error of the most probable class, in bins of equal size.

    The mean distance between confidence and accuracy, as in Guo et al., "On Calibration of Modern
    Neural Networks", 2017, equation 3, but with bins that hold the same number of rows, because
    nearly all confidences of this data are close to 1. ``probabilities`` has shape (n, classes).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
    distances = [len(rows) * abs(correct[rows].mean() - confidence[rows].mean()) for rows in bins]
    return float(sum(distances) / len(truth))


def _calibrate_if_better(
    winner: str,
    rows: NDArray[np.float64],
    classes: NDArray[np.int64],
    scores: dict[str, Scores],
    report: Callable[[str, Scores], None],
) -> tuple[Any, str]:
    """The uncalibrated or calibrated winner with the lowest log loss, and the reason in words."""
    variants = {winner: clone(CANDIDATES[winner])}
    for method in CALIBRATIONS:
        name = f"{winner}+{method}"
        variants[name] = CalibratedClassifierCV(clone(CANDIDATES[winner]), method=method)
        scores[name] = cross_validated(variants[name], rows, classes)
        report(name, scores[name])
    best = min(variants, key=lambda name: scores[name].log_loss)
    losses = ", ".join(f"{name} {scores[name].log_loss:.4f}" for name in variants)
    verdict = "calibrated by" if best != winner else "left as they are, the best of"
    return variants[best], (
        f"probabilities {verdict} {best}; log loss: {losses}; "
        f"expected calibration error {scores[best].calibration_error:.4f}"
    )
