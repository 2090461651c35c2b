"""Example answers for the OpenAPI document, made from the domain's example and labels.

JSON has the order of the fields here: pydantic would sort the examples of a schema.
"""

from typing import Any
from uuid import UUID

from iris_api.database.cursor import Cursor
from iris_api.iris import EXAMPLE, LABELS


def _summary(name: str, value: float) -> dict[str, Any]:
    """A `FeatureSummary` whose values lie around this one, from 0.8 to 1.2 times as large."""
    quantiles = {str(step / 10): round(value * (0.8 + step / 25), 3) for step in range(11)}
    ends = {"minimum": quantiles["0.0"], "maximum": quantiles["1.0"]}
    return {"name": name, **ends, "quantiles": quantiles}


_DIGEST = "dc4fb5662f0ffb8ac3b2abe97f14a277059c8734023a859955f13fad6dc7a0c3"
_VERSION = f"linear-discriminant-{_DIGEST[:12]}"
_TIME = "2026-01-31T12:00:00.123456Z"
_REST = round(0.02 / (len(LABELS) - 1), 4)

FEATURES = EXAMPLE.model_dump()
PREDICTION: dict[str, Any] = {
    "id": "019c13ec-9e7b-774b-8a3c-5d1f9e2b7a40",
    "prediction": 0,
    "prediction_label": LABELS[0],
    "probabilities": dict.fromkeys(LABELS, _REST) | {LABELS[0]: 0.98},
    "model_version": _VERSION,
    "created_at": _TIME,
}
_SECOND = PREDICTION | {"id": "019c13ec-9e7b-774b-b0d6-84c1e6f3290d"}
BATCH = {"items": [PREDICTION, _SECOND]}
_NAMED = FEATURES | {"reference": "sample-42"}
STORED = PREDICTION | _NAMED
PAGE = {
    "items": [_SECOND | _NAMED, STORED],
    "next_cursor": Cursor(UUID(PREDICTION["id"])).encode(),
}
CARD = {
    "version": _VERSION,
    "sha256": _DIGEST,
    "file": f"{_VERSION}.joblib",
    "estimator": "LinearDiscriminantAnalysis()",
    "classes": list(LABELS),
    "features": [_summary(name, value) for name, value in FEATURES.items()],
    "libraries": {"scikit-learn": "1.9.1", "numpy": "2.4.6", "scipy": "1.17.1", "joblib": "1.6.0"},
    "python": "3.11.7",
    "trained_at": _TIME,
    "training_rows": 150,
    "scores": {
        "linear-discriminant": {
            "accuracy": 0.9778,
            "log_loss": 0.0567,
            "brier_score": 0.0368,
            "calibration_error": 0.0046,
        }
    },
    "calibration": "probabilities left as they are; expected calibration error 0.0046",
}
ALIVE = {"status": "alive"}
READY = {
    "status": "ready",
    "checks": {
        "database": {"status": "ok", "detail": "PostgreSQL answers. It stores predictions."},
        "schema": {"status": "ok", "detail": "At revision 0004."},
        "model": {"status": "ok", "detail": f"{_VERSION} is loaded."},
    },
}
METRICS = f"""\
# HELP iris_predictions_total Predictions committed
# TYPE iris_predictions_total counter
iris_predictions_total{{label="{LABELS[0]}",model_version="{_VERSION}"}} 1.0
"""


def success(example: Any, *, headers: dict[str, Any] | None = None) -> dict[int | str, Any]:
    """The OpenAPI ``responses`` of an endpoint with this example of its JSON."""
    return {200: {"content": {"application/json": {"example": example}}, "headers": headers or {}}}


def body(example: Any) -> dict[str, Any]:
    """For an operation's OpenAPI document: an example of its request's JSON."""
    return {"requestBody": {"content": {"application/json": {"example": example}}}}
