"""The training rows: Fisher's iris data, as scikit-learn ships it, 150 rows, 50 of each species.

With `iris_api.iris` and the columns of `iris_api.database.models`, all that a fork changes
(docs/fork.md).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_iris


class Dataset(NamedTuple):
    """The rows and classes that a classifier is trained on."""

    rows: NDArray[np.float64]
    """Shape (n, features), in the order of `iris_api.iris.FEATURE_NAMES`, in their units."""
    classes: NDArray[np.int64]
    """Shape (n,): each row's class, as its position in `iris_api.iris.LABELS`."""


def load_dataset() -> Dataset:
    """The training rows and their classes."""
    data = load_iris()
    return Dataset(data.data, data.target)
