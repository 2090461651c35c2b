"""The domain: written once, and followed by the table, the SQL and the API."""

import re
from pathlib import Path

from iris_api import database, iris
from iris_api.database.models import IrisPrediction
from iris_api.database.schema import PredictionInDB
from iris_api.inference.dataset import load_dataset
from iris_api.recording.inserts import COLUMNS

SRC = Path(iris.__file__).parent
FEATURE = re.compile("|".join({name.partition("_")[0] for name in iris.FEATURE_NAMES}))


def test_no_other_file_of_src_names_a_feature() -> None:
    naming = {path for path in SRC.rglob("*.py") if FEATURE.search(path.read_text())}
    assert naming == {SRC / "iris.py", SRC / "database" / "models.py"}


def test_features_are_columns_of_the_table_in_their_order() -> None:
    columns = IrisPrediction.__table__.columns.keys()
    assert [name for name in columns if name in iris.FEATURE_NAMES] == list(iris.FEATURE_NAMES)


def test_a_statement_that_stores_fills_each_column_that_postgresql_does_not() -> None:
    assert [*COLUMNS] == [
        column.name
        for column in IrisPrediction.__table__.columns
        if column.name not in {"id", "created_at"}
    ]


def test_a_stored_prediction_has_the_features_without_their_bounds() -> None:
    stored = {
        "id": 1,
        "prediction": 0,
        "prediction_label": iris.LABELS[0],
        "probabilities": None,
        "model_version": None,
        "created_at": "2026-01-31T12:00:00Z",
    }
    outside = dict.fromkeys(iris.FEATURE_NAMES, -1.0)
    assert PredictionInDB.model_validate(stored | outside).model_dump().items() >= outside.items()


def test_the_training_rows_fit_the_domain() -> None:
    rows, classes = load_dataset()
    assert rows.shape == (len(classes), len(iris.FEATURE_NAMES))
    assert set(classes) == set(range(len(iris.LABELS)))
    names = iris.FEATURE_NAMES
    for row in rows.tolist():
        iris.IrisFeatures.model_validate(dict(zip(names, row, strict=True)))


def test_the_features_are_also_importable_where_the_customer_put_them() -> None:
    assert database.IrisFeatures is iris.IrisFeatures
    assert database.schema.IrisFeatures is iris.IrisFeatures
