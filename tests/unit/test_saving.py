from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from iris_api.inference import Manifest, load_artifact, save_artifact
from iris_api.inference.manifest import MANIFEST_NAME, QUANTILES
from iris_api.iris import FEATURE_NAMES

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]


class Contrarian(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn has no types
    """Its predict() is never its most probable class."""

    def predict(self, rows: Rows) -> Any:
        return self.classes_[self.predict_proba(rows).argmin(axis=1)]


def test_save_artifact_describes_the_rows_in_the_manifest(manifest: Manifest, rows: Rows) -> None:
    assert [feature.name for feature in manifest.features] == list(FEATURE_NAMES)
    assert [feature.minimum for feature in manifest.features] == rows.min(axis=0).tolist()
    assert [feature.maximum for feature in manifest.features] == rows.max(axis=0).tolist()
    assert manifest.training_rows == len(rows)
    for feature, values in zip(manifest.features, rows.T, strict=True):
        assert list(feature.quantiles) == [str(quantile) for quantile in QUANTILES]
        assert list(feature.quantiles.values()) == np.quantile(values, QUANTILES).tolist()
        assert feature.quantiles["0.5"] == np.median(values)


def test_save_artifact_derives_the_version_from_the_content(
    manifest: Manifest,
    estimator: Any,
    rows: Rows,
    targets: Targets,
    labels: list[str],
    folder: Path,
) -> None:
    again = save_artifact(estimator, rows, labels, folder)
    assert (again.version, again.sha256) == (manifest.version, manifest.sha256)
    other = QuadraticDiscriminantAnalysis().fit(rows, targets)
    assert save_artifact(other, rows, labels, folder).version != manifest.version
    assert load_artifact(folder).manifest.version != manifest.version


@pytest.fixture
def of_text(rows: Rows, targets: Targets, labels: list[str]) -> Any:
    """A classifier whose classes are the labels."""
    return LinearDiscriminantAnalysis().fit(rows, np.array(labels)[targets])


@pytest.mark.parametrize("given", [None, ["setosa", "versicolor", "virginica"]])
def test_save_artifact_with_text_classes_takes_them_as_labels(
    of_text: Any, rows: Rows, folder: Path, given: list[str] | None
) -> None:
    save_artifact(of_text, rows, given, folder)
    [answer] = load_artifact(folder).classifier.predict(rows[:1])
    assert (answer.prediction, answer.label) == (0, "setosa")


@pytest.mark.parametrize(
    "given", [["virginica", "versicolor", "setosa"], ["Setosa", "Versicolor", "Virginica"]]
)
def test_save_artifact_with_other_labels_than_the_text_classes_is_a_value_error(
    of_text: Any, rows: Rows, folder: Path, given: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"\['setosa', .*leave it out.*a mapping"):
        save_artifact(of_text, rows, given, folder)
    assert not folder.exists()


def test_save_artifact_with_a_mapping_renames_the_classes(
    of_text: Any, estimator: Any, rows: Rows, labels: list[str], folder: Path
) -> None:
    french = {"virginica": "de Virginie", "setosa": "sétacé", "versicolor": "versicolore"}
    manifest = save_artifact(of_text, rows, french, folder)
    assert manifest.classes == ["sétacé", "versicolore", "de Virginie"]
    numbered = save_artifact(estimator, rows, dict(enumerate(labels)), folder)
    assert numbered.classes == labels


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


def test_save_artifact_of_an_estimator_without_predict_proba_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"no predict_proba: wrap it in CalibratedClassifierCV"):
        save_artifact(RidgeClassifier().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "estimator", [GaussianNB(), make_pipeline(GaussianNB()), GaussianNB, LinearRegression()]
)
def test_save_artifact_of_an_unfitted_estimator_is_a_value_error(
    rows: Rows, labels: list[str], folder: Path, estimator: Any
) -> None:
    with pytest.raises(ValueError, match=r"no classes_: call its fit\(\) first"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_contradicting_its_probabilities_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    with pytest.raises(ValueError, match="not its most probable class"):
        save_artifact(Contrarian().fit(rows, targets), rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_with_three_features_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    estimator = LinearDiscriminantAnalysis().fit(rows[:, :3], targets)
    with pytest.raises(ValueError, match=r"fitted on 3 features: fit it on sepal_length, "):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_with_several_outputs_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    estimator = RandomForestClassifier(2).fit(rows, np.column_stack([targets, targets]))
    with pytest.raises(ValueError, match="one class of at least two"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


def test_save_artifact_of_an_estimator_whose_probabilities_have_another_sum_is_a_value_error(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    memberships = np.eye(3, dtype=int)[targets]
    estimator = OneVsRestClassifier(GaussianNB()).fit(rows, memberships)
    with pytest.raises(ValueError, match=r"without the sum 1"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, "five"])
def test_save_artifact_with_rows_that_are_no_finite_numbers_is_a_value_error(
    estimator: Any, rows: Rows, labels: list[str], folder: Path, wrong: Any
) -> None:
    spoilt = rows.astype(object)
    spoilt[3, 1] = wrong
    with pytest.raises(ValueError, match=r"The rows .*(leave NaN out|Give an array)"):
        save_artifact(estimator, spoilt, labels, folder)
    assert not folder.exists()


@pytest.mark.parametrize("shape", [(200, 3), (120, 5), (600,), (2, 75, 4), (0, 5)])
def test_save_artifact_with_rows_of_another_shape_is_a_value_error(
    estimator: Any, rows: Rows, labels: list[str], folder: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"not \(n, 4\)"):
        save_artifact(estimator, np.resize(rows, shape), labels, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "labels",
    [
        None,
        [],
        ["a", "b"],
        ["a", "b", "c", "d"],
        ["a", "b", "b"],
        [0, 1, 2],
        np.arange(3),
        {0: "a", 1: "b"},
        {0: "a", 1: "b", "2": "c"},
    ],
)
def test_save_artifact_without_a_distinct_label_for_each_class_is_a_value_error(
    estimator: Any, rows: Rows, folder: Path, labels: Any
) -> None:
    with pytest.raises(ValueError, match=r"has the classes \[0, 1, 2\]: label each"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()


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


def test_save_artifact_leaves_only_the_model_and_its_manifest(
    manifest: Manifest, folder: Path
) -> None:
    assert {path.name for path in folder.iterdir()} == {manifest.file, MANIFEST_NAME}
