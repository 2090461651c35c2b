"""Rows on which an ML model is tried: when it is saved, and again when it is loaded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from iris_api.inference.classifier import Classifier
from iris_api.inference.columns import Matrix
from iris_api.inference.manifest import QUANTILES, ProbeRow
from iris_api.iris import FEATURE_NAMES, IrisFeatures

_PROBES = 20
_CORNERS = 256
_SEED = 0
_TOLERANCE = 1e-9
_SINGLE_TOLERANCE = 1e-6
"""For probabilities in single precision, such as XGBoost's, whose last bit is worth 6e-8."""


def probe_rows(rows: Matrix) -> Matrix:
    """20 rows, shape (20, features), that show whether an ML model still predicts the same.

    The training rows' deciles together, then four corners of the features' bounds, then deciles
    of one feature beside others of the next, so that a tree's branches are met. Deterministic.
    """
    deciles = np.quantile(rows, QUANTILES, axis=0)
    is_odd = np.arange(len(FEATURE_NAMES)) % 2 == 1
    corners = [_corner(is_high) for is_high in (False, True, is_odd, ~is_odd)]
    mixed = np.random.default_rng(_SEED).permuted(deciles, axis=0)
    return np.vstack([deciles, corners, mixed])[:_PROBES]


def corner_rows() -> Matrix:
    """Corners of the features' bounds, shape (n, features): all of them where there are few."""
    draws = np.random.default_rng(_SEED).random((_CORNERS, len(FEATURE_NAMES))) < 1 / 2
    return np.unique(_corner(draws), axis=0)


def predict_each(classifier: Classifier, rows: Matrix) -> list[ProbeRow]:
    """What the classifier predicts for these rows."""
    pairs = zip(rows.tolist(), classifier.probabilities(rows).tolist(), strict=True)
    return [ProbeRow(features=row, probabilities=probabilities) for row, probabilities in pairs]


def find_difference(classifier: Classifier, probes: Sequence[ProbeRow]) -> str:
    """How the probabilities differ from the probe rows', in words; empty: not at all."""
    if not probes:
        return ""
    before = np.array([one.probabilities for one in probes])
    now = classifier.probabilities(np.array([one.features for one in probes]))
    tolerance = _SINGLE_TOLERANCE if now.dtype == np.float32 else _TOLERANCE
    distances = np.abs(now - before).max(axis=1)
    worst = int(distances.argmax())
    if distances[worst] <= tolerance:
        return ""
    return (
        f"for {probes[worst].features} it gives {now[worst].tolist()}, not {before[worst].tolist()}"
    )


def _corner(is_high: Any) -> Matrix:
    """The upper bounds of the chosen features, the lower ones of the others."""
    lowest, highest = np.array([_bounds(name) for name in FEATURE_NAMES]).T
    corner: Matrix = np.where(is_high, highest, lowest)
    return corner


def _bounds(name: str) -> tuple[float, float]:
    """The least and the greatest value that the service takes for a feature."""
    schema = IrisFeatures.model_json_schema()["properties"][name]
    lowest = schema.get("minimum")
    if lowest is None:
        lowest = np.nextafter(schema.get("exclusiveMinimum", -np.finfo(float).max), np.inf)
    highest = schema.get("maximum")
    if highest is None:
        highest = np.nextafter(schema.get("exclusiveMaximum", np.finfo(float).max), -np.inf)
    return float(lowest), float(highest)
