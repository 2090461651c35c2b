"""The database: sessions, tables, HTTP models, and the queries for predictions."""

from iris_api.database.crud import (
    create_prediction,
    get_prediction,
    list_predictions,
)
from iris_api.database.deps import get_db
from iris_api.database.models import IrisPrediction
from iris_api.database.schema import IrisFeatures, PredictionInDB, PredictionResponse
from iris_api.database.session import Base, create_engine, create_session_factory

__all__ = [
    "Base",
    "IrisFeatures",
    "IrisPrediction",
    "PredictionInDB",
    "PredictionResponse",
    "create_engine",
    "create_prediction",
    "create_session_factory",
    "get_db",
    "get_prediction",
    "list_predictions",
]
