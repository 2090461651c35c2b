import hashlib
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.typing import NDArray

from iris_api.errors import ModelUnavailable
from iris_api.inference import Manifest, load_artifact, save_artifact
from iris_api.model_files import MANIFEST_NAME


class CreatesFile:
    """Unpickling it creates a file, which stands for whatever a hostile model would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    """The file that is there once ``hostile`` was unpickled."""
    return tmp_path / "evidence"


@pytest.fixture
def hostile(evidence: Path) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(CreatesFile(evidence), buffer)
    return buffer.getvalue()


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_load_artifact_returns_the_saved_model(
    manifest: Manifest, folder: Path, estimator: Any, rows: NDArray[np.float64]
) -> None:
    model = load_artifact(folder)
    assert model.manifest == manifest
    assert model.classifier.classes == tuple(manifest.classes)
    assert model.classifier.version == manifest.version
    np.testing.assert_array_equal(
        model.classifier.estimator.predict_proba(rows), estimator.predict_proba(rows)
    )


def test_load_artifact_with_the_pinned_sha256_returns_the_model(
    manifest: Manifest, folder: Path
) -> None:
    assert load_artifact(folder, expected_sha256=manifest.sha256).manifest == manifest


def test_joblib_load_of_the_hostile_file_runs_its_code(hostile: bytes, evidence: Path) -> None:
    joblib.load(io.BytesIO(hostile))
    assert evidence.exists()


def test_load_artifact_with_another_file_than_the_manifests_does_not_unpickle_it(
    manifest: Manifest, folder: Path, hostile: bytes, evidence: Path
) -> None:
    (folder / manifest.file).write_bytes(hostile)
    with pytest.raises(ModelUnavailable, match="was changed, and was not loaded"):
        load_artifact(folder)
    assert not evidence.exists()


def test_load_artifact_with_another_file_than_the_pinned_one_does_not_unpickle_it(
    manifest: Manifest, folder: Path, hostile: bytes, evidence: Path
) -> None:
    (folder / manifest.file).write_bytes(hostile)
    edit_manifest(folder, sha256=sha256(hostile))
    with pytest.raises(ModelUnavailable, match=r"IRIS_MODEL_SHA256 asks for " + manifest.sha256):
        load_artifact(folder, expected_sha256=manifest.sha256)
    assert not evidence.exists()


@pytest.mark.parametrize("library", ["scikit-learn", "numpy", "scipy", "joblib"])
def test_load_artifact_with_a_file_of_other_libraries_does_not_unpickle_it(
    manifest: Manifest, folder: Path, hostile: bytes, evidence: Path, library: str
) -> None:
    (folder / manifest.file).write_bytes(hostile)
    libraries = {**manifest.libraries, library: "0.1"}
    edit_manifest(folder, sha256=sha256(hostile), libraries=libraries)
    with pytest.raises(ModelUnavailable, match=rf"written with {library} 0\.1 \(here: .*restart"):
        load_artifact(folder)
    assert not evidence.exists()


def test_load_artifact_with_a_file_of_unknown_libraries_is_model_unavailable(
    manifest: Manifest, folder: Path
) -> None:
    edit_manifest(folder, libraries={})
    with pytest.raises(ModelUnavailable, match="scikit-learn unknown"):
        load_artifact(folder)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_load_artifact_with_one_flipped_bit_is_model_unavailable(
    manifest: Manifest, folder: Path, position: int
) -> None:
    path = folder / manifest.file
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=manifest.sha256):
        load_artifact(folder)


def test_load_artifact_of_a_folder_without_a_model_says_how_to_train_one(folder: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"There is no model in .*iris-api train.*restart the service"
    ):
        load_artifact(folder)


def test_load_artifact_with_a_manifest_without_its_file_is_model_unavailable(
    manifest: Manifest, folder: Path
) -> None:
    (folder / manifest.file).unlink()
    with pytest.raises(ModelUnavailable, match=f"{manifest.file} cannot be read: No such file"):
        load_artifact(folder)


def test_load_artifact_with_an_unreadable_manifest_is_model_unavailable(folder: Path) -> None:
    (folder / MANIFEST_NAME).mkdir(parents=True)
    with pytest.raises(
        ModelUnavailable, match=r"cannot be read: Is a directory.*move it away.*`iris-api train`"
    ):
        load_artifact(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"\x80\x04."])
def test_load_artifact_with_an_invalid_manifest_is_model_unavailable(
    folder: Path, content: bytes
) -> None:
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ModelUnavailable, match="is not a manifest"):
        load_artifact(folder)


@pytest.mark.parametrize("file", ["../x.joblib", "a/x.joblib", "/x.joblib", "x.joblib\n", "x.pkl"])
@pytest.mark.usefixtures("manifest")
def test_load_artifact_with_a_file_outside_of_the_folder_does_not_read_it(
    folder: Path, file: str, hostile: bytes, evidence: Path
) -> None:
    (folder.parent / "x.joblib").write_bytes(hostile)
    edit_manifest(folder, file=file, sha256=sha256(hostile))
    with pytest.raises(ModelUnavailable, match="is not a manifest"):
        load_artifact(folder)
    assert not evidence.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 63},
        {"sha256": "A" * 64},
        {"classes": ["setosa"]},
        {"trained_at": "2026-01-31T12:00:00"},
        {"unknown": 1},
        {"scores": None},
    ],
)
@pytest.mark.usefixtures("manifest")
def test_load_artifact_with_a_wrong_manifest_field_is_model_unavailable(
    folder: Path, changes: dict[str, Any]
) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(ModelUnavailable, match="is not a manifest"):
        load_artifact(folder)


def test_load_artifact_with_an_estimator_of_a_missing_module_is_model_unavailable(
    folder: Path,
    rows: NDArray[np.float64],
    targets: NDArray[np.int64],
    labels: list[str],
    tmp_path: Path,
) -> None:
    source = "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as Base\n"
    (tmp_path / "notebook.py").write_text(source + "class Mine(Base): pass\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        mine = importlib.import_module("notebook").Mine()
        save_artifact(mine.fit(rows, targets), rows, labels, folder)
    del sys.modules["notebook"]
    with pytest.raises(ModelUnavailable, match="notebook"):
        load_artifact(folder)
