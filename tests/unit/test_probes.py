import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.semi_supervised import LabelSpreading

from iris_api.errors import ModelUnavailable
from iris_api.inference import Manifest, load_artifact, save_artifact
from iris_api.inference.probes import corner_rows, probe_rows
from iris_api.model_files import MANIFEST_NAME

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]
LEAST = 5e-324


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_release(version: str, patch: str) -> str:
    """Another patch release of the same minor one."""
    return ".".join([*version.split(".")[:2], patch])


def test_corner_rows_are_all_corners_of_the_features_bounds() -> None:
    corners = itertools.product([LEAST, 100.0], repeat=4)
    assert {tuple(row) for row in corner_rows().tolist()} == set(corners)


def test_probe_rows_are_20_that_span_the_training_rows_and_the_bounds(rows: Rows) -> None:
    probes = probe_rows(rows)
    assert len(np.unique(probes, axis=0)) == len(probes) == 20
    np.testing.assert_array_equal(probes, probe_rows(rows))
    listed = probes.tolist()
    for row in [rows.min(axis=0), rows.max(axis=0), np.median(rows, axis=0)]:
        assert row.tolist() in listed
    for corner in [[LEAST] * 4, [100.0] * 4, [LEAST, 100.0] * 2, [100.0, LEAST] * 2]:
        assert corner in listed


def test_save_artifact_writes_the_probabilities_of_the_probe_rows(
    manifest: Manifest, estimator: Any, rows: Rows
) -> None:
    np.testing.assert_array_equal([one.features for one in manifest.probe_rows], probe_rows(rows))
    expected = estimator.predict_proba(probe_rows(rows))
    np.testing.assert_array_equal([one.probabilities for one in manifest.probe_rows], expected)


@pytest.mark.parametrize("library", ["numpy", "scipy"])
def test_load_artifact_with_a_file_of_another_patch_release_loads_it(
    manifest: Manifest, folder: Path, library: str
) -> None:
    other = with_release(manifest.libraries[library], "99")
    edit_manifest(folder, libraries={**manifest.libraries, library: other})
    assert load_artifact(folder).manifest.sha256 == manifest.sha256


@pytest.mark.parametrize("library", ["scikit-learn", "joblib"])
def test_load_artifact_with_a_file_of_another_scikit_learn_patch_is_model_unavailable(
    manifest: Manifest, folder: Path, library: str
) -> None:
    other = with_release(manifest.libraries[library], "99")
    edit_manifest(folder, libraries={**manifest.libraries, library: other})
    with pytest.raises(ModelUnavailable, match=f"written with {library} {other}"):
        load_artifact(folder)


def test_load_artifact_with_a_manifest_without_probe_rows_requires_equal_versions(
    manifest: Manifest, folder: Path
) -> None:
    card = json.loads((folder / MANIFEST_NAME).read_text())
    for name in ("probe_rows", "columns", "frame"):  # what release 0.1.0 did not write
        del card[name]
    (folder / MANIFEST_NAME).write_text(json.dumps(card))
    assert load_artifact(folder).manifest.version == manifest.version
    numpy = with_release(manifest.libraries["numpy"], "99")
    edit_manifest(folder, libraries={**manifest.libraries, "numpy": numpy})
    with pytest.raises(ModelUnavailable, match=f"written with numpy {numpy}"):
        load_artifact(folder)


@pytest.mark.parametrize("change", [2e-9, -0.25, 1.0])
def test_load_artifact_with_other_probabilities_of_a_probe_row_is_model_unavailable(
    manifest: Manifest, folder: Path, change: float
) -> None:
    probes = [one.model_dump() for one in manifest.probe_rows]
    probes[7]["probabilities"][1] += change
    edit_manifest(folder, probe_rows=probes)
    with pytest.raises(ModelUnavailable, match=r"does not predict as when it was saved.*restart"):
        load_artifact(folder)


def test_load_artifact_with_a_difference_in_the_last_bits_loads_it(
    manifest: Manifest, folder: Path
) -> None:
    probes = [one.model_dump() for one in manifest.probe_rows]
    probes[7]["probabilities"][1] += 1e-12
    edit_manifest(folder, probe_rows=probes)
    assert load_artifact(folder).manifest.version == manifest.version


class Single(GaussianNB):  # type: ignore[misc]  # scikit-learn has no types
    """Computes in single precision, as XGBoost does."""

    def predict_proba(self, rows: Rows) -> Any:
        return super().predict_proba(rows).astype(np.float32)


def test_load_artifact_with_single_precision_allows_for_its_last_bits(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    manifest = save_artifact(Single().fit(rows, targets), rows, labels, folder)
    probes = [one.model_dump() for one in manifest.probe_rows]
    probes[7]["probabilities"][1] += 1e-7
    edit_manifest(folder, probe_rows=probes)
    assert load_artifact(folder).manifest.version == manifest.version
    probes[7]["probabilities"][1] += 1e-5
    edit_manifest(folder, probe_rows=probes)
    with pytest.raises(ModelUnavailable, match="does not predict as when it was saved"):
        load_artifact(folder)


def test_load_artifact_with_a_probe_row_of_other_features_is_model_unavailable(
    manifest: Manifest, folder: Path
) -> None:
    probes = [
        {"features": [1.0], "probabilities": one.probabilities} for one in manifest.probe_rows
    ]
    edit_manifest(folder, probe_rows=probes)
    with pytest.raises(ModelUnavailable, match=r"cannot predict.*Save it again.*restart"):
        load_artifact(folder)


def test_load_artifact_with_other_features_than_the_service_is_model_unavailable(
    manifest: Manifest, folder: Path
) -> None:
    features = [one.model_dump() for one in manifest.features]
    edit_manifest(folder, features=features[::-1])
    with pytest.raises(ModelUnavailable, match=r"takes the features petal_width, .*restart"):
        load_artifact(folder)


def test_save_artifact_of_an_estimator_with_nan_far_from_its_rows_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"\[nan, nan, nan\].*within the features' bounds"):
        save_artifact(LabelSpreading().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()


class Narrow(GaussianNB):  # type: ignore[misc]
    """Takes no row beyond 99."""

    def predict_proba(self, rows: Rows) -> Any:
        if rows.max() > 99:
            raise ArithmeticError("too far")
        return super().predict_proba(rows)


def test_save_artifact_of_an_estimator_that_fails_within_the_bounds_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"predict_proba\(\) fails .*too far.*the features' bounds"
    ):
        save_artifact(Narrow().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()


class Moody(LinearDiscriminantAnalysis):  # type: ignore[misc]
    """Its probabilities change from call to call."""

    calls = 0

    def predict_proba(self, rows: Rows) -> Any:
        Moody.calls += 1
        share = Moody.calls / 1e5
        return super().predict_proba(rows) * (1 - share) + share / 3


def test_save_artifact_of_an_estimator_with_random_probabilities_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"does not predict the same.*the same at each call"):
        save_artifact(Moody().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()
