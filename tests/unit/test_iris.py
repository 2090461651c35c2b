"""The domain: written once, and followed by the table, the SQL and the API."""

import re
from pathlib import Path
from uuid import UUID

from iris_api import database, iris
from iris_api.database.models import IrisPrediction
from iris_api.database.schema import PredictionInDB
from iris_api.inference.dataset import load_dataset
from iris_api.recording.statements import COLUMNS

SRC = Path(iris.__file__).parent
FEATURE = re.compile("|".join({name.partition("_")[0] for name in iris.FEATURE_NAMES}))


def test_feature_names_are_written_only_in_iris_and_database_models() -> None:
    naming = {path for path in SRC.rglob("*.py") if FEATURE.search(path.read_text())}
    assert naming == {SRC / "iris.py", SRC / "database" / "models.py"}


def test_feature_names_are_columns_of_the_table_in_the_same_order() -> None:
    columns = IrisPrediction.__table__.columns.keys()
    assert [name for name in columns if name in iris.FEATURE_NAMES] == list(iris.FEATURE_NAMES)


def test_inserts_fill_each_column_that_postgresql_does_not() -> None:
    by_postgresql = {"id", "created_at", "transaction", "warnings"}
    assert {*COLUMNS} | by_postgresql == {*IrisPrediction.__table__.columns.keys()}


def test_prediction_in_db_has_the_features_without_their_bounds() -> None:
    stored = {
        "id": UUID(int=1),
        "prediction": 0,
        "prediction_label": iris.LABELS[0],
        "probabilities": None,
        "model_version": None,
        "reference": None,
        "created_at": "2026-01-31T12:00:00Z",
    }
    outside = dict.fromkeys(iris.FEATURE_NAMES, -1.0)
    assert PredictionInDB.model_validate(stored | outside).model_dump().items() >= outside.items()


def test_load_dataset_gives_valid_iris_features_and_labels() -> None:
    rows, classes = load_dataset()
    assert rows.shape == (len(classes), len(iris.FEATURE_NAMES))
    assert set(classes) == set(range(len(iris.LABELS)))
    names = iris.FEATURE_NAMES
    for row in rows.tolist():
        iris.IrisFeatures.model_validate(dict(zip(names, row, strict=True)))


def test_iris_features_can_be_imported_from_database_and_its_schema() -> None:
    assert database.IrisFeatures is iris.IrisFeatures
    assert database.schema.IrisFeatures is iris.IrisFeatures
