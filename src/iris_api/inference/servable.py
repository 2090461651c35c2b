"""Makes of an estimator what the service can serve, or says why it cannot."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import joblib
import numpy as np
from numpy.typing import ArrayLike

from iris_api.inference.classifier import Classifier
from iris_api.inference.columns import (
    Arrangement,
    Columns,
    Matrix,
    are_numbered,
    arrangement,
    features_of,
    matrix_of,
)
from iris_api.inference.pickles import Contents, check_origin, pickled, without_column_names
from iris_api.inference.probes import corner_rows, find_difference, predict_each, probe_rows
from iris_api.iris import FEATURE_NAMES, LABELS

Labels: TypeAlias = Sequence[str] | Mapping[Any, str]
_SUM_TOLERANCE = 1e-5  # XGBoost's probabilities have single precision


@dataclass(frozen=True, slots=True)
class Servable:
    """A checked estimator: the file's content, and the classifier that this content gives."""

    content: bytes
    classifier: Classifier
    rows: Matrix
    modules: set[str]
    """The top-level modules that the content needs."""
    columns: list[str] | None
    frame: list[str] | None


def make_servable(
    estimator: Any, rows: ArrayLike, classes: Labels | None, columns: Columns | None
) -> Servable:
    """Check an estimator, with the arguments of `save_artifact`. Raises `ValueError`."""
    _check_fitted(estimator)
    labels = _labels(estimator.classes_, classes)
    contents = Contents(estimator)
    check_origin(contents)
    names = _column_names(estimator, contents)
    features = features_of(names, columns)
    matrix = matrix_of(rows, dict(zip(names or (), features, strict=False)))
    order = None if features == list(FEATURE_NAMES) else features

    def classifier_of(one: Any, frame: list[str] | None) -> Classifier:
        return Classifier(one, classes=labels, version="", arrangement=_arrange(order, frame))

    given, frame = classifier_of(estimator, names), names
    _check_probabilities(given, matrix)
    if frame is not None:
        plain = classifier_of(without_column_names(estimator), None)
        if _is_equal(plain, given, matrix):
            estimator, frame = plain.estimator, None
    content = pickled(estimator)
    served = classifier_of(joblib.load(io.BytesIO(content)), frame)
    _check_predict(served, _arrange(order, frame), matrix)
    _check_equal(served, given, matrix)
    modules = contents.modules | ({"pandas"} if frame else set())
    return Servable(content, served, matrix, modules, order, frame)


def _check_fitted(estimator: Any) -> None:
    classes = getattr(estimator, "classes_", None)
    if classes is None:
        raise ValueError(
            "The estimator has no classes_: call its fit() first. If it is no classifier, the "
            "service cannot serve it."
        )
    if not hasattr(estimator, "predict_proba"):
        raise ValueError("The estimator has no predict_proba: wrap it in CalibratedClassifierCV.")
    if any(np.ndim(one) for one in classes) or len(classes) < 2:  # noqa: PLR2004, a choice
        raise ValueError("The estimator has to choose one class of at least two.")
    count = getattr(estimator, "n_features_in_", len(FEATURE_NAMES))
    if count != len(FEATURE_NAMES):
        raise ValueError(
            f"The estimator was fitted on {count} features: fit it on {', '.join(FEATURE_NAMES)}."
        )


def _labels(own_classes: Any, given: Labels | None) -> list[str]:
    """The labels of the estimator's classes, in their order."""
    own = np.asarray(own_classes).tolist()
    is_text = all(isinstance(one, str) for one in own)
    given = own if given is None else given
    labels = [given.get(one) for one in own] if isinstance(given, Mapping) else list(given)
    is_labelled = len(given) == len(own) == len(set(labels))
    if not is_labelled or not all(isinstance(one, str) for one in labels):
        raise ValueError(
            f"The estimator has the classes {own}: label each with a text of its own, in this "
            f"order, such as classes=[{LABELS[0]!r}, ...]."
        )
    if is_text and not isinstance(given, Mapping) and labels != own:
        raise ValueError(
            f"The estimator has the classes {own}, `classes` says {[*map(str, labels)]}: leave it "
            "out; or, to rename them, give a mapping from each class to its label."
        )
    return [str(one) for one in labels]


def _column_names(estimator: Any, contents: Contents) -> list[str] | None:
    """The names of the columns that an estimator was fitted on; None for an array."""
    for one in (estimator, *contents.with_column_names.values()):  # a pipeline's are in its steps
        names = getattr(one, "feature_names_in_", None)
        if names is not None:
            is_array = are_numbered(names) and not contents.with_column_names  # LightGBM's way
            return None if is_array else [str(name) for name in names]
    return None


def _arrange(columns: list[str] | None, frame: list[str] | None) -> Arrangement:
    try:
        return arrangement(columns, frame)
    except ImportError as error:
        raise ValueError(
            "The estimator was fitted on a frame: `pip install 'iris-api[pandas]'` to save it."
        ) from error


def _is_equal(plain: Classifier, given: Classifier, rows: Matrix) -> bool:
    """Whether the copy without column names predicts the same from an array, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*feature names")
        try:
            return not find_difference(
                plain, predict_each(given, np.vstack([rows, probe_rows(rows)]))
            )
        except Exception:  # noqa: BLE001, it selects columns by name, so it needs a frame
            return False


def _check_probabilities(classifier: Classifier, rows: Matrix) -> None:
    """Require probabilities for the training rows, and wherever the service takes a row."""
    for some in (rows, probe_rows(rows), corner_rows()):
        try:
            with np.errstate(all="ignore"):  # NaN is found below
                probabilities = classifier.probabilities(some)
        except Exception as error:
            raise ValueError(
                f"The estimator's predict_proba() fails for some of {some[:1].tolist()}, ...: "
                f"{error}. It has to take every row within the features' bounds."
            ) from error
        if np.shape(probabilities) != (len(some), len(classifier.classes)):
            raise ValueError(
                f"The estimator's predict_proba() has the shape {np.shape(probabilities)} for "
                f"{len(some)} rows and {len(classifier.classes)} classes."
            )
        is_wrong = ~(np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE)  # also of NaN
        if is_wrong.any():
            raise ValueError(
                f"The estimator's probabilities for {some[is_wrong][0].tolist()} are "
                f"{probabilities[is_wrong][0].tolist()}, without the sum 1. It has to take every "
                "row within the features' bounds: take another classifier, or clip its input."
            )


def _check_predict(served: Classifier, arrange: Arrangement, rows: Matrix) -> None:
    estimator = served.estimator
    most_probable = estimator.classes_[served.probabilities(rows).argmax(axis=1)]
    if not np.array_equal(estimator.predict(arrange(rows)), most_probable):
        raise ValueError(
            "The estimator's predict() is not its most probable class: "
            "wrap it in CalibratedClassifierCV."
        )


def _check_equal(served: Classifier, given: Classifier, rows: Matrix) -> None:
    difference = find_difference(served, predict_each(given, probe_rows(rows)))
    if difference:
        raise ValueError(
            f"The estimator does not predict the same after pickling: {difference}. Take one whose "
            "probabilities are the same at each call."
        )
