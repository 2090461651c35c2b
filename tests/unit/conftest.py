"""What several unit tests share. None of these needs a database."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from iris_api.inference import Manifest, save_artifact
from iris_api.observability.metrics import Metrics

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def rows() -> NDArray[np.float64]:
    """The iris data's measures, shape (150, 4)."""
    measures: NDArray[np.float64] = load_iris().data
    return measures


@pytest.fixture(scope="session")
def targets() -> NDArray[np.int64]:
    """The iris data's classes, by number."""
    classes: NDArray[np.int64] = load_iris().target
    return classes


@pytest.fixture(scope="session")
def labels() -> list[str]:
    return list(load_iris().target_names.tolist())


@pytest.fixture(scope="session")
def estimator(rows: NDArray[np.float64], targets: NDArray[np.int64]) -> Any:
    """A fitted classifier; not to be changed."""
    return LinearDiscriminantAnalysis().fit(rows, targets)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's model goes; not there yet."""
    return tmp_path / "model"


@pytest.fixture
def manifest(
    estimator: Any, rows: NDArray[np.float64], labels: list[str], folder: Path
) -> Manifest:
    """The manifest of a model that was saved to ``folder``."""
    return save_artifact(estimator, rows, labels, folder)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without certificates, in an environment without libpq's variables."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    return tmp_path
