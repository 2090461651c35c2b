"""How a row of the service becomes what an estimator takes: other columns, or a pandas frame."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iris_api.iris import FEATURE_NAMES

Matrix: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = Mapping[str, str] | Sequence[str]


class Arrangement(NamedTuple):
    """How rows in the order of `FEATURE_NAMES` become an estimator's input."""

    order: list[int] | None = None
    """For each of the estimator's columns, the position of its feature; None: the same order."""
    make_frame: Callable[[Matrix], Any] | None = None
    """From the ordered array to a frame; None: the estimator takes the array."""

    def __call__(self, rows: Matrix) -> Any:
        """The estimator's input, for rows of shape (n, features)."""
        ordered = rows if self.order is None else rows[:, self.order]
        return ordered if self.make_frame is None else self.make_frame(ordered)


def arrangement(columns: Sequence[str] | None, frame: Sequence[str] | None) -> Arrangement:
    """The arrangement for the ``columns`` and the ``frame`` of a `Manifest`.

    Raises `ImportError` for a frame without pandas.
    """
    order = None if columns is None else [FEATURE_NAMES.index(name) for name in columns]
    if frame is None:
        return Arrangement(order)
    return Arrangement(order, partial(importlib.import_module("pandas").DataFrame, columns=frame))


def are_numbered(names: Sequence[Any]) -> bool:
    """Whether the names are a prefix and 0, 1, 2 and so on, so that only their order means much."""
    prefix = str(names[0]).removesuffix("0")
    return [str(name) for name in names] == [f"{prefix}{number}" for number in range(len(names))]


def features_of(names: Sequence[str] | None, columns: Columns | None) -> list[str]:
    """The features in the order of an estimator's columns, which have these names.

    Without ``columns``, a name means the feature that it equals, but for capitals, punctuation and
    a unit in parentheses; numbered names are in the order of `FEATURE_NAMES`. Raises `ValueError`
    unless each feature has one column.
    """
    if isinstance(columns, Mapping):
        if names is None:
            raise ValueError(
                "The estimator was fitted on an array, whose columns have no names: give `columns` "
                "as a list of the features in their order."
            )
        found = [columns.get(name, "") for name in names]
    elif columns is not None:
        found = [str(name) for name in columns]
    elif names is None or are_numbered(names):
        return list(FEATURE_NAMES)
    else:
        by_key = {_key(feature): feature for feature in FEATURE_NAMES}
        found = [by_key.get(_key(name), "") for name in names]
    if sorted(found) != sorted(FEATURE_NAMES):
        own = "" if names is None else f" {', '.join(names)}"
        raise ValueError(
            f"The estimator's columns{own} are not, one to one, the features "
            f"{', '.join(FEATURE_NAMES)}: say which is which, such as "
            f"columns={{{(names or ['x'])[0]!r}: {FEATURE_NAMES[0]!r}, ...}}."
        )
    return found


def matrix_of(rows: ArrayLike, features: Mapping[str, str]) -> Matrix:
    """The training rows as an array, shape (n, features), in the order of `FEATURE_NAMES`.

    The columns of a frame are found by their names, which ``features`` maps to the features, or
    else by `features_of`. Raises `ValueError` for rows that are no such array.
    """
    frame = getattr(rows, "columns", None)
    try:
        matrix = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The rows are not numbers: {error}. Give an array or a frame.") from error
    if matrix.ndim != 2 or matrix.shape[1] != len(FEATURE_NAMES):  # noqa: PLR2004, a matrix
        raise ValueError(f"The rows have the shape {matrix.shape}, not (n, {len(FEATURE_NAMES)}).")
    if not len(matrix) or not np.isfinite(matrix).all():
        raise ValueError("The rows have to be at least one, and finite: leave NaN out.")
    if frame is None or are_numbered(frame):
        return matrix
    names = [str(name) for name in frame]
    order = features_of(names, features if set(names) == set(features) else None)
    return matrix[:, [order.index(feature) for feature in FEATURE_NAMES]]


def _key(name: str) -> str:
    without_unit = re.sub(r"\(.*?\)", "", name)
    return re.sub("[^0-9a-z]", "", without_unit.casefold())
