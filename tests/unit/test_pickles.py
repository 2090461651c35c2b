import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn.base
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from iris_api.inference import load_artifact, save_artifact

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]


class Mine(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn has no types
    """A class that a test moves to ``__main__``."""


@pytest.fixture
def file(estimator: Any, tmp_path: Path) -> Path:
    joblib.dump(estimator, tmp_path / "model.joblib")
    return tmp_path / "model.joblib"


@pytest.fixture
def old_file(rows: Rows, targets: Targets, tmp_path: Path) -> Iterator[Path]:
    """A forest that scikit-learn 1.8.0 has pickled; its warnings are forgotten after the test."""
    forest = RandomForestClassifier(3).fit(rows, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.base, "__version__", "1.8.0")
        joblib.dump(forest, tmp_path / "old.joblib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(sklearn.base), "__warningregistry__", {})
        yield tmp_path / "old.joblib"


@pytest.mark.parametrize("as_type", [str, Path])
def test_save_artifact_of_a_file_serves_its_estimator(
    file: Path, rows: Rows, labels: list[str], folder: Path, as_type: Any
) -> None:
    manifest = save_artifact(as_type(file), rows, labels, as_type(folder))
    assert load_artifact(as_type(folder)).manifest == manifest


def test_save_artifact_of_a_file_of_another_scikit_learn_is_a_value_error(
    old_file: Path, rows: Rows, labels: list[str], folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"written with scikit-learn 1\.8\.0 \(here: .*fit it"):
        save_artifact(old_file, rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_of_another_scikit_learn_is_a_value_error(
    old_file: Path, rows: Rows, labels: list[str], folder: Path
) -> None:
    with warnings.catch_warnings(action="default"), warnings.catch_warnings(record=True):
        estimator = joblib.load(old_file)
    with pytest.raises(
        ValueError, match=r"(RandomForest|DecisionTree)Classifier of scikit-learn 1\.8\.0\..*fit it"
    ):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_beside_an_estimator_of_another_scikit_learn_saves_another_kind(
    old_file: Path, estimator: Any, rows: Rows, labels: list[str], folder: Path
) -> None:
    with warnings.catch_warnings(action="default"), warnings.catch_warnings(record=True):
        joblib.load(old_file)
    manifest = save_artifact(estimator, rows, labels, folder)
    assert load_artifact(folder).manifest == manifest


@pytest.mark.parametrize("content", [None, b"", b"not a pickle", b"\x80\x04."])
def test_save_artifact_of_a_file_that_is_no_pickle_is_a_value_error(
    tmp_path: Path, rows: Rows, labels: list[str], folder: Path, content: bytes | None
) -> None:
    path = tmp_path / "wrong.joblib"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong\.joblib cannot be unpickled.*joblib or pickle"):
        save_artifact(path, rows, labels, folder)
    assert not folder.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_save_artifact_of_an_estimator_whose_class_a_script_defines_is_a_value_error(
    rows: Rows,
    targets: Targets,
    labels: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_there: bool,  # noqa: FBT001, a parameter of the test
) -> None:
    monkeypatch.setattr(Mine, "__module__", "__main__")
    if is_there:
        monkeypatch.setattr(sys.modules["__main__"], "Mine", Mine, raising=False)
    with pytest.raises(ValueError, match=r"uses Mine, which a script or notebook.*a module"):
        save_artifact(Mine().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_with_a_lambda_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    doubled = FunctionTransformer(lambda some: 2 * some)
    estimator = make_pipeline(doubled, LinearDiscriminantAnalysis()).fit(rows, targets)
    with pytest.raises(ValueError, match=r"cannot be pickled: .*lambda.*in a module"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()
