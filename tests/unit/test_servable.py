"""Which estimators and labels `save_artifact` takes, and how it refuses the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from iris_api.inference import load_artifact, save_artifact

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]


class Contrarian(LinearDiscriminantAnalysis):  # type: ignore[misc]  # scikit-learn has no types
    """Its predict() is never its most probable class."""

    def predict(self, rows: Rows) -> Any:
        return self.classes_[self.predict_proba(rows).argmin(axis=1)]


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
        {0: "a", 1: "b", 2: "c", 3: "d"},
    ],
)
def test_save_artifact_without_a_distinct_label_for_each_class_is_a_value_error(
    estimator: Any, rows: Rows, folder: Path, labels: Any
) -> None:
    with pytest.raises(ValueError, match=r"has the classes \[0, 1, 2\]: label each"):
        save_artifact(estimator, rows, labels, folder)
    assert not folder.exists()
