"""Ask for predictions. Each is committed before its answer begins."""

from fastapi import APIRouter, Response

from iris_api.api.problems import problem_responses
from iris_api.api.resources import Model, ProcessResources, Session
from iris_api.database.crud import create_prediction, create_predictions
from iris_api.database.models import IrisPrediction
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
    SchemaOutdated,
)

router = APIRouter(
    tags=["predict"],
    responses=problem_responses(
        MalformedBody,
        BodyTooLarge,
        InvalidRequest,
        InternalError,
        ModelUnavailable,
        DatabaseUnavailable,
        SchemaOutdated,
    ),
)


@router.post("/predict", summary="Predict the species of one flower")
async def predict(
    features: IrisFeatures,
    response: Response,
    model: Model,
    session: Session,
    resources: ProcessResources,
) -> PredictionResponse:
    """Classify a flower, store the prediction, answer with the stored row."""
    [prediction] = await model.engine.predict([features.as_row()])
    row = IrisPrediction.from_request(features, prediction)
    await create_prediction(session, row)
    resources.metrics.count_predictions([(row.prediction_label, row.model_version)])
    response.headers["Content-Location"] = f"/predictions/{row.id}"
    return PredictionResponse.model_validate(row)


@router.post("/predict/batch", summary="Predict the species of up to 10,000 flowers")
async def predict_batch(
    batch: IrisFeaturesBatch, model: Model, session: Session, resources: ProcessResources
) -> PredictionBatch:
    """Classify flowers and store all predictions in one transaction, or none."""
    predictions = await model.engine.predict([features.as_row() for features in batch.items])
    rows = [
        IrisPrediction.from_request(features, prediction)
        for features, prediction in zip(batch.items, predictions, strict=True)
    ]
    await create_predictions(session, rows)
    resources.metrics.count_predictions((row.prediction_label, row.model_version) for row in rows)
    return PredictionBatch(items=[PredictionResponse.model_validate(row) for row in rows])
