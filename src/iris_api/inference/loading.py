"""Loads an ML model: checks its manifest, its digest and its libraries, then its predictions."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from pydantic import ValidationError

from iris_api.errors import ModelUnavailable
from iris_api.inference.classifier import Classifier
from iris_api.inference.columns import arrangement
from iris_api.inference.libraries import differences
from iris_api.inference.manifest import Manifest
from iris_api.inference.probes import find_difference
from iris_api.iris import FEATURE_NAMES
from iris_api.model_files import MANIFEST_NAME, unlisted_models

_TRAIN_HINT = "Run `iris-api train` to write a new one, and restart the service."


@dataclass(frozen=True, slots=True)
class Model:
    """An ML model in memory: its manifest and its classifier."""

    manifest: Manifest
    classifier: Classifier


def load_artifact(folder: str | Path, *, expected_sha256: str | None = None) -> Model:
    """Load the folder's ML model. Unpickles it only if its digest and library versions match.

    ``expected_sha256`` pins the file from outside the folder. Raises `ModelUnavailable`, which says
    what does not match and what to do.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    _check_fit(manifest)
    content = _read_checked(folder / manifest.file, manifest, expected_sha256)
    # The digest is of these bytes, so the file cannot be replaced in between.
    try:
        estimator = joblib.load(io.BytesIO(content))
        classifier = _classifier_of(estimator, manifest)
    except Exception as error:
        raise ModelUnavailable(
            f"The model {manifest.version} cannot be unpickled: {error}. Install what it was "
            "written with, or run `iris-api train`; then restart the service."
        ) from error
    _check_probe_rows(classifier, manifest)
    return Model(manifest, classifier)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        unlisted = "".join(
            f"{path.name} has no manifest: bring it in by `save_artifact` (docs/models.md). "
            for path in unlisted_models(folder)[:1]
        )
        raise ModelUnavailable(f"There is no model in {folder}. {unlisted}{_TRAIN_HINT}") from None
    except OSError as error:
        raise ModelUnavailable(
            f"{path} cannot be read: {error.strerror}. Let the service read it; or move it away. "
            f"{_TRAIN_HINT}"
        ) from None
    except ValidationError:
        raise ModelUnavailable(f"{path} is not a manifest. {_TRAIN_HINT}") from None


def _check_fit(manifest: Manifest) -> None:
    """Require the service's features, and the versions of the libraries that wrote the file."""
    features = [feature.name for feature in manifest.features]
    if features != list(FEATURE_NAMES):
        raise ModelUnavailable(
            f"The model {manifest.version} takes the features {', '.join(features)}; the service "
            f"has {', '.join(FEATURE_NAMES)}. {_TRAIN_HINT}"
        )
    wrong = differences(manifest.libraries, has_probe_rows=bool(manifest.probe_rows))
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


def _classifier_of(estimator: Any, manifest: Manifest) -> Classifier:
    return Classifier(
        estimator,
        classes=manifest.classes,
        version=manifest.version,
        arrangement=arrangement(manifest.columns, manifest.frame),
    )


def _check_probe_rows(classifier: Classifier, manifest: Manifest) -> None:
    """Require the probabilities that the ML model gave when it was saved."""
    try:
        difference = find_difference(classifier, manifest.probe_rows)
    except Exception as error:
        raise ModelUnavailable(
            f"The model {manifest.version} cannot predict: {error}. Save it again, with the "
            "libraries that are installed here; then restart the service."
        ) from error
    if difference:
        raise ModelUnavailable(
            f"The model {manifest.version} does not predict as when it was saved: {difference}. "
            "Install the libraries that it was saved with, or save it again with those that are "
            "installed here; then restart the service."
        )
