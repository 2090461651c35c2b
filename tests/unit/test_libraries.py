"""The libraries of an estimator beside scikit-learn: a package made here plays one."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from iris_api.errors import ModelUnavailable
from iris_api.inference import load_artifact, save_artifact

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]
SOURCE = """
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

class Tree(LinearDiscriminantAnalysis):
    pass

def prune(rows):
    return rows
"""


def install(site: Path, version: str) -> None:
    """Have `importlib.metadata` find the distribution ``foreign-trees`` of this version."""
    for old in site.glob("*.dist-info"):
        (old / "METADATA").unlink()
        (old / "top_level.txt").unlink()
        old.rmdir()
    folder = site / f"foreign_trees-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: foreign-trees\nVersion: {version}\n"
    )
    (folder / "top_level.txt").write_text("foreigntrees\n")
    importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages that holds ``foreigntrees.forest``, version 1.4.2."""
    site = tmp_path / "site"
    package = site / "foreigntrees"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "forest.py").write_text(SOURCE)
    install(site, "1.4.2")
    monkeypatch.syspath_prepend(site)
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "foreigntrees"]:
        del sys.modules[name]


def itself(forest: Any) -> Any:
    return forest.Tree()


def within_a_calibration(forest: Any) -> Any:
    return CalibratedClassifierCV(forest.Tree())


def by_a_function(forest: Any) -> Any:
    return make_pipeline(FunctionTransformer(forest.prune), LinearDiscriminantAnalysis())


@pytest.mark.parametrize("make", [itself, within_a_calibration, by_a_function])
def test_save_artifact_records_the_version_of_a_foreign_library(
    site: Path, rows: Rows, targets: Targets, labels: list[str], folder: Path, make: Any
) -> None:
    estimator = make(importlib.import_module("foreigntrees.forest")).fit(rows, targets)
    manifest = save_artifact(estimator, rows, labels, folder)
    others = {"scikit-learn", "numpy", "scipy", "joblib"}
    assert manifest.libraries.keys() - others == {"foreign-trees"}
    assert manifest.libraries["foreign-trees"] == "1.4.2"
    assert load_artifact(folder).manifest == manifest
    install(site, "1.4.3")
    with pytest.raises(ModelUnavailable, match=r"written with foreign-trees 1.4.2 \(here: 1.4.3\)"):
        load_artifact(folder)


def test_load_artifact_without_the_foreign_library_is_model_unavailable(
    site: Path, rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    estimator = importlib.import_module("foreigntrees.forest").Tree().fit(rows, targets)
    save_artifact(estimator, rows, labels, folder)
    (site / "foreign_trees-1.4.2.dist-info").rename(site / "gone")
    importlib.invalidate_caches()
    with pytest.raises(ModelUnavailable, match=r"foreign-trees 1.4.2 \(here: not installed\)"):
        load_artifact(folder)


def test_save_artifact_of_a_scikit_learn_estimator_records_no_other_library(
    estimator: Any, rows: Rows, labels: list[str], folder: Path
) -> None:
    manifest = save_artifact(estimator, rows, labels, folder)
    assert list(manifest.libraries) == ["scikit-learn", "numpy", "scipy", "joblib"]
