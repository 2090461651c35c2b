"""Writes an ML model: a joblib file and its manifest.

The joblib file is named after its digest and never changes. ``manifest.json`` names the current
file and is replaced atomically, so a reader sees the whole old ML model or the whole new one.
"""

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iris_api.inference.columns import Columns, Matrix
from iris_api.inference.libraries import versions_of
from iris_api.inference.manifest import QUANTILES, FeatureSummary, Manifest, Scores
from iris_api.inference.pickles import read_pickle
from iris_api.inference.probes import predict_each, probe_rows
from iris_api.inference.servable import Servable, make_servable
from iris_api.iris import FEATURE_NAMES
from iris_api.model_files import MANIFEST_NAME

_DEFAULT_FOLDER = Path(".iris/model")


def save_artifact(  # noqa: PLR0913, all but two have a default
    estimator: Any,
    rows: ArrayLike,
    classes: Sequence[str] | Mapping[Any, str] | None = None,
    folder: str | Path = _DEFAULT_FOLDER,
    *,
    columns: Columns | None = None,
    name: str = "custom",
    scores: dict[str, Scores] | None = None,
    calibration: str = "not examined",
) -> Manifest:
    """Write a fitted classifier and its manifest, and make it the folder's ML model.

    ``estimator`` may be the path of a pickle, which is loaded: give only one that you trust.
    ``rows`` are the training rows: an array, shape (n, features), in the order of `FEATURE_NAMES`;
    or a frame, whose columns are found by their names. ``classes`` are the labels of the
    estimator's ``classes_``, in their order or as a mapping; None: the classes are the labels.
    ``columns`` says which feature each column of the estimator is: by its name, or in its order;
    None: by the names, or the order of `FEATURE_NAMES` if it was fitted on an array. ``folder``
    is the folder ``model`` in ``IRIS_DATA_DIR``.

    Raises `ValueError`, and writes nothing, for an estimator that the service cannot serve.
    """
    _check_arguments(classes, name)
    if isinstance(estimator, (str, Path)):
        estimator = read_pickle(Path(estimator))
    model = make_servable(estimator, rows, classes, columns)
    folder = Path(folder)
    manifest = _describe(model, name, scores or {}, calibration)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / manifest.file, model.content)
    _replace(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())
    return manifest


def _check_arguments(classes: object, name: str) -> None:
    if isinstance(classes, (str, Path)):
        raise ValueError(  # noqa: TRY004, one kind of error for all that cannot be saved
            f"`classes` is {str(classes)!r}: give a list of labels. The folder comes after it, or "
            "as folder=..."
        )
    if not re.fullmatch("[0-9A-Za-z_-]+", name):
        likely = re.sub("[^0-9A-Za-z_-]+", "-", name).strip("-") or "custom"
        raise ValueError(
            f"The name {name!r} becomes part of a file name: use letters, digits, - and _ only, "
            f"such as {likely!r}."
        )


def _describe(model: Servable, name: str, scores: dict[str, Scores], calibration: str) -> Manifest:
    digest = hashlib.sha256(model.content).hexdigest()
    return Manifest(
        version=f"{name}-{_version_of(digest, model.classifier.classes)}",
        sha256=digest,
        file=f"{name}-{digest[:12]}.joblib",
        estimator=repr(model.classifier.estimator),
        classes=list(model.classifier.classes),
        features=[_summarise(*pair) for pair in zip(FEATURE_NAMES, model.rows.T, strict=True)],
        libraries=versions_of(model.modules),
        python=platform.python_version(),
        trained_at=datetime.now(UTC),
        training_rows=len(model.rows),
        scores=scores,
        calibration=calibration,
        columns=model.columns,
        frame=model.frame,
        probe_rows=predict_each(model.classifier, probe_rows(model.rows)),
    )


def _version_of(digest: str, classes: Sequence[str]) -> str:
    """Return the version's digits: stored probabilities are by version, in the classes' order."""
    return hashlib.sha256("\0".join((digest, *classes)).encode()).hexdigest()[:12]


def _summarise(name: str, values: Matrix) -> FeatureSummary:
    quantiles = np.quantile(values, QUANTILES)
    return FeatureSummary(
        name=name,
        minimum=float(values.min()),
        maximum=float(values.max()),
        quantiles={str(q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    )


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
