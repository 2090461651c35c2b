"""What several unit tests share. None of these needs a database."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import settings
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from iris_api.inference import Manifest, save_artifact
from iris_api.observability.logging import configure_logging
from iris_api.observability.metrics import Metrics
from iris_api.settings import Settings

Configure = Callable[..., None]
Lines = Callable[[], list[dict[str, Any]]]

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


@pytest.fixture
def configure(capsys: pytest.CaptureFixture[str]) -> Iterator[Configure]:
    """Configure the logging of this process; it is put back after the test."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    before = root.handlers[:], root.level, uvicorn.level
    yield lambda **changes: configure_logging(Settings.model_validate(changes))
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    uvicorn.setLevel(before[2])
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last call, one JSON object for each line."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
