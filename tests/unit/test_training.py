import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

from iris_api.inference import Manifest, load_artifact
from iris_api.inference.manifest import Scores
from iris_api.inference.training import (
    CALIBRATIONS,
    CANDIDATES,
    calibration_error,
    cross_validated,
    train,
)


def test_train_chooses_the_candidate_with_the_lowest_log_loss(tmp_path: Path) -> None:
    reported: dict[str, Scores] = {}
    manifest = train(tmp_path, report=reported.__setitem__)
    losses = {name: scores.log_loss for name, scores in manifest.scores.items()}
    winner = min(CANDIDATES, key=lambda name: losses[name])
    assert re.fullmatch(f"{winner}-[0-9a-f]{{12}}", manifest.version)
    assert losses[winner] == min(losses.values())
    assert f"left as they are, the best of {winner}" in manifest.calibration
    assert manifest.estimator == repr(CANDIDATES[winner])
    assert set(losses) == {*CANDIDATES, *(f"{winner}+{method}" for method in CALIBRATIONS)}
    assert reported == manifest.scores
    assert load_artifact(tmp_path).manifest == manifest


def test_train_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    def content(manifest: Manifest, folder: Path) -> bytes:
        return (folder / manifest.file).read_bytes()

    first, second = tmp_path / "first", tmp_path / "second"
    a = train(first, candidate="quadratic-discriminant")
    b = train(second, candidate="quadratic-discriminant")
    assert a.version == b.version
    assert a.scores == b.scores
    assert content(a, first) == content(b, second)


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_fitted_twice_give_the_same_probabilities(
    name: str, rows: NDArray[np.float64], targets: NDArray[np.int64]
) -> None:
    first, second = [clone(CANDIDATES[name]).fit(rows, targets) for _ in range(2)]
    np.testing.assert_array_equal(first.predict_proba(rows), second.predict_proba(rows))


@pytest.fixture(scope="module")
def overconfident(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The only candidate is one that is always certain, so that calibration is worth it."""
    folder = tmp_path_factory.mktemp("overconfident")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CANDIDATES, "nearest", KNeighborsClassifier(n_neighbors=1))
        return folder, train(folder, candidate="nearest")


def test_train_with_an_overconfident_candidate_calibrates_its_probabilities(
    overconfident: tuple[Path, Manifest],
) -> None:
    folder, manifest = overconfident
    losses = {name: scores.log_loss for name, scores in manifest.scores.items()}
    best = min(losses, key=lambda name: losses[name])
    assert best != "nearest"
    assert f"calibrated by {best}" in manifest.calibration
    calibrated = load_artifact(folder).classifier.estimator
    assert isinstance(calibrated, CalibratedClassifierCV)
    assert f"nearest+{calibrated.method}" == best
    assert manifest.estimator == repr(calibrated)


def test_train_with_a_named_candidate_compares_no_other(
    overconfident: tuple[Path, Manifest],
) -> None:
    _, manifest = overconfident
    assert set(manifest.scores) == {"nearest", *(f"nearest+{method}" for method in CALIBRATIONS)}


def test_train_manifest_holds_the_ranges_and_the_labels_of_the_data(
    overconfident: tuple[Path, Manifest],
) -> None:
    _, manifest = overconfident
    data = load_iris()
    assert manifest.classes == data.target_names.tolist()
    assert manifest.training_rows == 150
    assert [feature.minimum for feature in manifest.features] == data.data.min(axis=0).tolist()
    assert [feature.maximum for feature in manifest.features] == data.data.max(axis=0).tolist()


def test_cross_validated_scores_only_unseen_rows(
    rows: NDArray[np.float64], targets: NDArray[np.int64]
) -> None:
    memory = KNeighborsClassifier(n_neighbors=1)
    shuffled = np.random.default_rng(0).permutation(targets)
    assert memory.fit(rows, targets).score(rows, targets) == 1
    assert 0.9 < cross_validated(memory, rows, targets).accuracy < 1
    assert cross_validated(memory, rows, shuffled).accuracy < 0.5


def test_calibration_error_is_the_mean_distance_over_the_bins() -> None:
    """Ten bins of two: five of them say 0.6 and are right, five say 0.9 and are wrong."""
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    truth = np.array([1] * 20)
    assert calibration_error(truth, probabilities) == pytest.approx((0.9 + 0.4) / 2)


def test_calibration_error_weighs_a_bin_by_its_rows() -> None:
    """Eleven rows fill ten bins: the first holds two of them, one right and one wrong."""
    probabilities = np.array([[0.5, 0.3, 0.2]] * 2 + [[1.0, 0.0, 0.0]] * 9)
    truth = np.array([0, 2, *[0] * 8, 1])
    assert calibration_error(truth, probabilities) == pytest.approx(1 / 11)


def test_calibration_error_of_calibrated_probabilities_is_0() -> None:
    probabilities = np.array([[0.75, 0.25]] * 40)
    truth = np.array([0, 0, 0, 1] * 10)
    assert calibration_error(truth, probabilities) == pytest.approx(0)
