import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from iris_api.errors import ModelUnavailable
from iris_api.inference import load_artifact, save_artifact
from iris_api.iris import FEATURE_NAMES

Rows = NDArray[np.float64]
Targets = NDArray[np.int64]
SCIKIT_LEARN = tuple(f"{name.replace('_', ' ')} (cm)" for name in FEATURE_NAMES)
"""The names of `sklearn.datasets.load_iris(as_frame=True)`."""
FOREST = RandomForestClassifier(10, random_state=0)
PIPELINE = make_pipeline(StandardScaler(), LogisticRegression())
VOTE = VotingClassifier([("bayes", GaussianNB()), ("logistic", PIPELINE)], voting="soft")
BY_NAME = make_pipeline(
    ColumnTransformer([("scale", StandardScaler(), list(SCIKIT_LEARN[:2]))], remainder="drop"),
    LogisticRegression(),
)


WITHOUT_PANDAS = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from iris_api.inference import load_artifact
[answer] = load_artifact(sys.argv[1]).classifier.predict(np.ones((1, 4)))
print(answer.label)
"""
"""Loads the ML model of a folder where pandas is not installed, and prints a label."""


@pytest.fixture
def frame(rows: Rows) -> Any:
    return pd.DataFrame(rows, columns=list(SCIKIT_LEARN))


def assert_served_as(estimator: Any, frame: Any, folder: Path, rows: Rows) -> None:
    """The saved ML model gives the estimator's own probabilities, and either without a warning."""
    served = [one.probabilities for one in load_artifact(folder).classifier.predict(rows)]
    expected = estimator.predict_proba(frame)
    np.testing.assert_allclose([list((one or {}).values()) for one in served], expected, atol=1e-9)


@pytest.mark.parametrize("estimator", [FOREST, PIPELINE, VOTE])
def test_save_artifact_of_an_estimator_fitted_on_a_frame_serves_it_from_arrays(
    estimator: Any, frame: Any, rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    fitted = estimator.fit(frame, targets)
    manifest = save_artifact(fitted, frame, labels, folder)
    assert (manifest.columns, manifest.frame) == (None, None)
    assert "pandas" not in manifest.libraries
    assert_served_as(fitted, frame, folder, rows)


def test_load_artifact_of_an_estimator_fitted_on_a_frame_needs_no_pandas(
    frame: Any, targets: Targets, labels: list[str], folder: Path
) -> None:
    save_artifact(PIPELINE.fit(frame, targets), frame, labels, folder)
    command = [sys.executable, "-W", "error", "-c", WITHOUT_PANDAS, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() in labels


def test_save_artifact_of_an_estimator_with_columns_in_another_order_gives_each_its_feature(
    frame: Any, rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    turned = frame[frame.columns[::-1]]
    fitted = FOREST.fit(turned, targets)
    manifest = save_artifact(fitted, turned, labels, folder)
    assert manifest.columns == list(FEATURE_NAMES[::-1])
    assert [one.minimum for one in manifest.features] == rows.min(axis=0).tolist()
    assert_served_as(fitted, turned, folder, rows)


def test_save_artifact_of_an_estimator_that_selects_columns_by_name_serves_it_from_frames(
    frame: Any, rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    turned = frame[frame.columns[::-1]]
    fitted = BY_NAME.fit(turned, targets)
    manifest = save_artifact(fitted, rows, labels, folder)
    assert manifest.frame == list(SCIKIT_LEARN[::-1])
    assert manifest.libraries["pandas"] == pd.__version__
    assert_served_as(fitted, turned, folder, rows)


def test_load_artifact_of_an_estimator_that_needs_frames_without_pandas_is_model_unavailable(
    frame: Any, targets: Targets, labels: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_artifact(BY_NAME.fit(frame, targets), frame, labels, folder)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModelUnavailable, match="pandas"):
        load_artifact(folder)


NAMES = ["a", "b", "c", "d"]
BY_LETTER = dict(zip(NAMES, FEATURE_NAMES, strict=True))


@pytest.mark.parametrize("columns", [BY_LETTER, FEATURE_NAMES])
def test_save_artifact_with_columns_maps_the_names_to_the_features(
    columns: Any, rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    frame = pd.DataFrame(rows, columns=NAMES)
    fitted = FOREST.fit(frame, targets)
    save_artifact(fitted, frame[frame.columns[::-1]], labels, folder, columns=columns)
    assert_served_as(fitted, frame, folder, rows)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (NAMES, None),
        (["sepal_length", "Sepal Length", "petal_length", "petal_width"], None),
        (NAMES, BY_LETTER | {"d": "sepal_length"}),
        (NAMES, {"a": "sepal_length"}),
        (NAMES, FEATURE_NAMES[:3]),
        (NAMES, ["w", "x", "y", "z"]),
    ],
)
def test_save_artifact_with_columns_that_are_not_one_to_one_is_a_value_error(
    names: list[str],
    columns: Any,
    rows: Rows,
    targets: Targets,
    labels: list[str],
    folder: Path,
) -> None:
    fitted = FOREST.fit(pd.DataFrame(rows, columns=names), targets)
    with pytest.raises(ValueError, match=r"not, one to one, the features sepal_length.*columns={"):
        save_artifact(fitted, rows, labels, folder, columns=columns)
    assert not folder.exists()


@pytest.mark.parametrize(
    "names",
    [
        FEATURE_NAMES,
        ("Sepal.Length", "Sepal.Width", "Petal.Length", "Petal.Width"),
        ("sepalLength", "sepalWidth", "petalLength", "petalWidth"),
        ("x0", "x1", "x2", "x3"),
    ],
)
def test_save_artifact_finds_the_features_by_likely_names(
    names: tuple[str, ...], rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    frame = pd.DataFrame(rows, columns=list(names))
    fitted = FOREST.fit(frame, targets)
    save_artifact(fitted, frame, labels, folder)
    assert_served_as(fitted, frame, folder, rows)


def test_save_artifact_without_names_takes_the_features_in_the_order_of_columns(
    rows: Rows, targets: Targets, labels: list[str], folder: Path
) -> None:
    fitted = GaussianNB().fit(rows[:, ::-1], targets)
    save_artifact(fitted, rows, labels, folder, columns=FEATURE_NAMES[::-1])
    assert_served_as(fitted, rows[:, ::-1], folder, rows)
