from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import (
    QuadraticDiscriminantAnalysis,
)

from iris_api.inference import Manifest, load_artifact, save_artifact
from iris_api.inference.manifest import QUANTILES
from iris_api.iris import FEATURE_NAMES
from iris_api.model_files import MANIFEST_NAME
from iris_api.settings import Settings

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]


def test_save_artifact_describes_the_rows_in_the_manifest(manifest: Manifest, rows: Rows) -> None:
    assert [feature.name for feature in manifest.features] == list(FEATURE_NAMES)
    assert [feature.minimum for feature in manifest.features] == rows.min(axis=0).tolist()
    assert [feature.maximum for feature in manifest.features] == rows.max(axis=0).tolist()
    assert manifest.training_rows == len(rows)
    for feature, values in zip(manifest.features, rows.T, strict=True):
        assert list(feature.quantiles) == [str(quantile) for quantile in QUANTILES]
        assert list(feature.quantiles.values()) == np.quantile(values, QUANTILES).tolist()
        assert feature.quantiles["0.5"] == np.median(values)


def test_save_artifact_derives_the_version_from_the_content_and_the_classes(
    manifest: Manifest,
    estimator: Any,
    rows: Rows,
    targets: Targets,
    labels: list[str],
    folder: Path,
) -> None:
    again = save_artifact(estimator, rows, labels, folder)
    assert (again.version, again.sha256) == (manifest.version, manifest.sha256)
    renamed = save_artifact(estimator, rows, ["one", *labels[1:]], folder)
    assert (renamed.version != manifest.version, renamed.sha256) == (True, manifest.sha256)
    other = QuadraticDiscriminantAnalysis().fit(rows, targets)
    assert save_artifact(other, rows, labels, folder).version != manifest.version
    assert load_artifact(folder).manifest.version != manifest.version


@pytest.mark.parametrize("interrupted", [".joblib", ".json"])
def test_save_artifact_with_a_crash_keeps_the_old_model(
    manifest: Manifest,
    rows: Rows,
    targets: Targets,
    labels: list[str],
    folder: Path,
    interrupted: str,
) -> None:
    replace = Path.replace

    def crash(path: Path, target: Path) -> Path:
        if target.suffix == interrupted:
            raise KeyboardInterrupt
        return replace(path, target)

    other = QuadraticDiscriminantAnalysis().fit(rows, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            save_artifact(other, rows, labels, folder)
    assert load_artifact(folder).manifest == manifest
    new = save_artifact(other, rows, labels, folder)
    assert load_artifact(folder).manifest == new


def test_save_artifact_with_a_failed_write_keeps_the_old_model(
    manifest: Manifest, estimator: Any, rows: Rows, labels: list[str], folder: Path
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_artifact(estimator, rows, labels, folder)
    assert load_artifact(folder).manifest == manifest


def test_save_artifact_with_the_folder_in_the_place_of_the_classes_is_a_value_error(
    estimator: Any, rows: Rows, folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"give a list of labels\. The folder comes after it"):
        save_artifact(estimator, rows, folder)  # type: ignore[arg-type]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("../escaped", "escaped"),
        ("a/b", "a-b"),
        ("my model v1.2", "my-model-v1-2"),
        ("Ünderscore_d", "nderscore_d"),
        ("", "custom"),
    ],
)
def test_save_artifact_with_an_invalid_name_is_a_value_error_with_a_likely_one(
    estimator: Any, rows: Rows, labels: list[str], folder: Path, name: str, likely: str
) -> None:
    with pytest.raises(ValueError, match=f"becomes part of a file name: .* such as '{likely}'"):
        save_artifact(estimator, rows, labels, folder, name=name)
    assert list(folder.parent.iterdir()) == []


def test_save_artifact_without_a_folder_writes_to_the_default_data_directory(
    estimator: Any, rows: Rows, labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = save_artifact(estimator, rows, labels)
    assert load_artifact(Settings().model_dir).manifest == manifest


def test_save_artifact_leaves_only_the_model_and_its_manifest(
    manifest: Manifest, folder: Path
) -> None:
    assert {path.name for path in folder.iterdir()} == {manifest.file, MANIFEST_NAME}
