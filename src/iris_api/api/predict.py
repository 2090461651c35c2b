"""Ask for predictions. Each is committed before its answer begins."""

from typing import Any

from fastapi import APIRouter, Response

from iris_api.api.direct import DirectRoute
from iris_api.api.problems import problem_responses
from iris_api.api.resources import ProcessResources
from iris_api.database.crud import NewPrediction, StoredAs
from iris_api.database.schema import (
    IrisFeatures,
    IrisFeaturesBatch,
    PredictionBatch,
    PredictionResponse,
)
from iris_api.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    InternalError,
    InvalidRequest,
    MalformedBody,
    ModelUnavailable,
    Overloaded,
    SchemaOutdated,
    UnsupportedMediaType,
)
from iris_api.inference.classifier import ClassPrediction

router = APIRouter(
    route_class=DirectRoute,
    tags=["predict"],
    responses=problem_responses(
        MalformedBody,
        UnsupportedMediaType,
        BodyTooLarge,
        InvalidRequest,
        InternalError,
        ModelUnavailable,
        Overloaded,
        DatabaseUnavailable,
        SchemaOutdated,
    ),
)


@router.post(
    "/predict", summary="Predict the species of one flower", response_model=PredictionResponse
)
async def predict(
    features: IrisFeatures, response: Response, resources: ProcessResources
) -> dict[str, Any]:
    """Classify a flower, store the prediction, answer with the stored row."""
    row = features.as_row()
    answer = await resources.require_model().engine.predict(row)
    stored = await resources.recorder.record(NewPrediction.of(row, answer))
    response.headers["Content-Location"] = f"/predictions/{stored.id}"
    return _answer(answer, stored)


@router.post(
    "/predict/batch",
    summary="Predict the species of up to 10,000 flowers",
    response_model=PredictionBatch,
)
async def predict_batch(batch: IrisFeaturesBatch, resources: ProcessResources) -> dict[str, Any]:
    """Classify flowers and store all predictions in one transaction, or none."""
    rows = [features.as_row() for features in batch.items]
    answers = await resources.require_model().engine.predict_many(rows)
    stored = await resources.recorder.record_all(rows, answers)
    return {"items": list(map(_answer, answers, stored))}


def _answer(answer: ClassPrediction, stored: StoredAs) -> dict[str, Any]:
    """The fields of a `PredictionResponse`, as a dict: ten times as fast to make."""
    return {
        "id": stored.id,
        "prediction": answer.prediction,
        "prediction_label": answer.label,
        "probabilities": answer.probabilities,
        "model_version": answer.model_version,
        "created_at": stored.created_at,
    }
