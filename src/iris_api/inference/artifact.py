"""The ML model on disk: a joblib file and its manifest.

The joblib file is named after its digest and never changes. ``manifest.json`` names the current
file and is replaced atomically, so a reader sees the whole old ML model or the whole new one.
"""

import hashlib
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from iris_api.errors import ModelUnavailable
from iris_api.inference.classifier import Classifier
from iris_api.iris import FEATURE_NAMES

MANIFEST_NAME = "manifest.json"
QUANTILES = tuple(round(step / 10, 1) for step in range(11))
"""The quantiles of each feature in a manifest: the deciles, with both ends."""
_LIBRARIES = ("scikit-learn", "numpy", "scipy", "joblib")
_TRAIN_HINT = "Run `iris-api train` to write a new one, and restart the service."


class FeatureSummary(BaseModel):
    """One feature's values in the training rows, in the feature's unit."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="As in the body of `POST /predict`")
    minimum: float = Field(description="In the feature's unit, as are the others")
    maximum: float = Field(description="In the feature's unit")
    quantiles: dict[str, float] = Field(description="The deciles, from 0.0 to 1.0")


class Scores(BaseModel):
    """A classifier's scores on rows that it was not fitted on."""

    model_config = ConfigDict(frozen=True)

    accuracy: float = Field(description="Share of rows whose class is right: 1 is best")
    log_loss: float = Field(description="Mean negative log-likelihood, in nats: 0 is best")
    brier_score: float = Field(description="Multiclass Brier score: 0 is best, 2 is worst")
    calibration_error: float = Field(
        description="Expected calibration error of the top class, in ten bins of equal size"
    )


class Manifest(BaseModel):
    """The ML model's card."""

    model_config = ConfigDict(title="ModelCard", frozen=True, extra="forbid")

    version: str = Field(description="The estimator's name and the first digits of the digest")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Digest of the file")]
    file: Annotated[
        str, Field(pattern=r"^[0-9A-Za-z_-]+\.joblib$", description="Its name, without a folder")
    ]
    estimator: str = Field(description="scikit-learn's own description of the estimator")
    classes: Annotated[
        list[str], Field(min_length=2, description="The labels; a `prediction` is a position here")
    ]
    features: list[FeatureSummary] = Field(description="In the order of the ML model's columns")
    libraries: dict[str, str] = Field(description="The versions that wrote the file")
    python: str = Field(description="The version of Python that wrote the file")
    trained_at: AwareDatetime = Field(description="When the file was written")
    training_rows: int = Field(description="How many rows it was fitted on")
    scores: dict[str, Scores] = Field(
        description="By candidate, from cross-validation; empty for a model brought from elsewhere"
    )
    calibration: str = Field(description="How the probabilities were calibrated, and why")


def save_artifact(
    estimator: Any,
    rows: ArrayLike,
    classes: Sequence[str],
    folder: Path,
    *,
    name: str = "custom",
    scores: dict[str, Scores] | None = None,
    calibration: str = "not examined",
) -> Manifest:
    """Write a fitted classifier and its manifest, and make it the folder's ML model.

    ``rows`` are the training rows, shape (n, features), in the order of `FEATURE_NAMES`.
    ``classes`` are the labels of the estimator's ``classes_``, in their order. Raises `ValueError`,
    and writes nothing, for an estimator that the service cannot serve.
    """
    matrix = np.asarray(rows, dtype=np.float64)
    _check_servable(estimator, matrix, classes)
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    manifest = Manifest(
        version=f"{name}-{digest[:12]}",
        sha256=digest,
        file=f"{name}-{digest[:12]}.joblib",
        estimator=repr(estimator),
        classes=list(classes),
        features=[_summarise(*pair) for pair in zip(FEATURE_NAMES, matrix.T, strict=True)],
        libraries=_library_versions(),
        python=platform.python_version(),
        trained_at=datetime.now(UTC),
        training_rows=len(matrix),
        scores=scores or {},
        calibration=calibration,
    )
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / manifest.file, content)
    _replace(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
    return manifest


@dataclass(frozen=True, slots=True)
class Model:
    """An ML model in memory: its manifest and its classifier."""

    manifest: Manifest
    classifier: Classifier


def load_artifact(folder: Path, *, expected_sha256: str | None = None) -> Model:
    """Load the folder's ML model. Unpickles it only if its digest and library versions match.

    ``expected_sha256`` pins the file from outside the folder. Raises `ModelUnavailable`, which says
    what does not match and what to do.
    """
    manifest = _read_manifest(folder)
    _check_libraries(manifest)
    content = _read_checked(folder / manifest.file, manifest, expected_sha256)
    # The digest is of these bytes, so the file cannot be replaced in between.
    try:
        estimator = joblib.load(io.BytesIO(content))
    except Exception as error:
        raise ModelUnavailable(
            f"The model {manifest.version} cannot be unpickled: {error}. Install what it was "
            "written with, or run `iris-api train`; then restart the service."
        ) from error
    classifier = Classifier(estimator, classes=manifest.classes, version=manifest.version)
    return Model(manifest, classifier)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelUnavailable(f"There is no model in {folder}. {_TRAIN_HINT}") from None
    except OSError as error:
        raise ModelUnavailable(
            f"{path} cannot be read: {error.strerror}. Let the service read it; or move it away. "
            f"{_TRAIN_HINT}"
        ) from None
    except ValidationError:
        raise ModelUnavailable(f"{path} is not a manifest. {_TRAIN_HINT}") from None


def _check_libraries(manifest: Manifest) -> None:
    """Require equal versions: scikit-learn supports a pickle only in the version that wrote it."""
    here = _library_versions()
    wrong = [
        f"{name} {manifest.libraries.get(name, 'unknown')} (here: {here[name]})"
        for name in _LIBRARIES
        if manifest.libraries.get(name) != here[name]
    ]
    if wrong:
        raise ModelUnavailable(
            f"The model {manifest.version} was written with {', '.join(wrong)}. "
            "Install those versions, or run `iris-api train`; then restart the service."
        )


def _read_checked(path: Path, manifest: Manifest, expected_sha256: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelUnavailable(f"{path} cannot be read: {error.strerror}. {_TRAIN_HINT}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise ModelUnavailable(
            f"{path} has the digest {digest}, its manifest says {manifest.sha256}: the file was "
            f"changed, and was not loaded. {_TRAIN_HINT}"
        )
    if expected_sha256 is not None and digest != expected_sha256:
        raise ModelUnavailable(
            f"{path} has the digest {digest}, IRIS_MODEL_SHA256 asks for {expected_sha256}. "
            "Put that model in place, or change the pin; then restart the service."
        )
    return content


def _check_servable(estimator: Any, rows: NDArray[np.float64], classes: Sequence[str]) -> None:
    if not hasattr(estimator, "predict_proba"):
        raise ValueError("The estimator has no predict_proba: wrap it in CalibratedClassifierCV.")
    if rows.ndim != 2 or rows.shape[1] != len(FEATURE_NAMES):  # noqa: PLR2004, a matrix
        raise ValueError(f"The rows have the shape {rows.shape}, not (n, {len(FEATURE_NAMES)}).")
    if hasattr(estimator, "feature_names_in_"):
        raise ValueError("The estimator was fitted on named columns: fit it on an array.")
    if not hasattr(estimator, "classes_"):
        raise ValueError("The estimator was not fitted: call its fit() first.")
    if len(classes) != len(estimator.classes_) or len(set(classes)) != len(classes):
        raise ValueError(f"The estimator has the classes {list(estimator.classes_)}: label each.")
    most_probable = estimator.classes_[estimator.predict_proba(rows).argmax(axis=1)]
    if not np.array_equal(estimator.predict(rows), most_probable):
        raise ValueError(
            "The estimator's predict() is not its most probable class: "
            "wrap it in CalibratedClassifierCV."
        )


def _summarise(name: str, values: NDArray[np.float64]) -> FeatureSummary:
    quantiles = np.quantile(values, QUANTILES)
    return FeatureSummary(
        name=name,
        minimum=float(values.min()),
        maximum=float(values.max()),
        quantiles={str(q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    )


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _replace(path: Path, content: bytes) -> None:
    """Write a file that exists whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name durable, too
    finally:
        os.close(folder)
