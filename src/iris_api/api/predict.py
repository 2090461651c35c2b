"""The endpoints that predict. Each prediction is committed before its response begins."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from iris_api.database.schema import (
    IrisFeatures,
    IrisFeaturesBatch,
    Prediction,
    PredictionBatch,
)
from iris_api.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    IdempotencyKeyReused,
    InternalError,
    InvalidRequest,
    MalformedBody,
    ModelUnavailable,
    NotPredicted,
    NotStored,
    OutcomeUnknown,
    RequestTimeout,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from iris_api.iris import ClassPrediction
from iris_api.observability.access_log import LogFields, log_fields
from iris_api.recording.rows import NewBatch, NewPrediction, StoredPrediction
from iris_api.resources import ProcessResources
from iris_api.web.access import ACCESS_PROBLEMS, SECURED, Predictor
from iris_api.web.examples import BATCH, FEATURES, PREDICTION, body, success
from iris_api.web.idempotency_key import IDEMPOTENCY_KEY, Key
from iris_api.web.json_route import JsonRoute
from iris_api.web.limits import require_at_most
from iris_api.web.problems import problem_responses
from iris_api.web.reference import REFERENCE, PredictionReference

router = APIRouter(
    route_class=JsonRoute,
    tags=["predict"],
    responses=problem_responses(
        *ACCESS_PROBLEMS,
        MalformedBody,
        RequestTimeout,
        UnsupportedEncoding,
        UnsupportedMediaType,
        BodyTooLarge,
        InvalidRequest,
        IdempotencyKeyReused,
        InternalError,
        NotPredicted,
        NotStored,
        ModelUnavailable,
        DeadlineExceeded,
        OutcomeUnknown,
    ),
)


_LOCATION_HEADER = {
    "description": "Where `GET` reads the stored prediction",
    "schema": {"type": "string", "format": "uri-reference"},
}


def _log_fields(request: Request) -> LogFields:
    """What the request's log line says of it: the ids of the stored rows are added."""
    return log_fields(request.scope)


Logged = Annotated[LogFields, Depends(_log_fields)]


@router.post(
    "/predict",
    summary="Predict the class of one sample",
    response_model=Prediction,
    response_description="The prediction, committed",
    responses=success(PREDICTION, headers={"Content-Location": _LOCATION_HEADER}),
    openapi_extra=SECURED | {"parameters": [IDEMPOTENCY_KEY, REFERENCE]} | body(FEATURES),
)
async def predict(
    features: IrisFeatures,
    response: Response,
    resources: ProcessResources,
    caller: Predictor,
    key: Key,
    reference: PredictionReference,
    logged: Logged,
) -> dict[str, Any]:
    """Classify a sample, store the prediction, and return the stored row."""
    resources.horizon.require_partition()
    row = features.as_row()
    answer = await resources.model.get().engine.predict(row)
    stored = await resources.recorder.record(NewPrediction(caller, row, answer, key, reference))
    logged["id"] = str(stored.id)
    _log_replay(logged, stored)
    response.headers["Content-Location"] = f"{resources.settings.root_path}/predictions/{stored.id}"
    return _answer(answer, stored)


@router.post(
    "/predict/batch",
    summary="Predict the classes of up to 10,000 samples",
    response_model=PredictionBatch,
    response_description="The predictions, committed, in the order of the request's items",
    responses=success(BATCH),
    openapi_extra=SECURED
    | {"parameters": [IDEMPOTENCY_KEY]}
    | body({"items": [FEATURES, FEATURES | {"reference": "sample-42"}]}),
)
async def predict_batch(
    batch: IrisFeaturesBatch,
    resources: ProcessResources,
    caller: Predictor,
    key: Key,
    logged: Logged,
) -> dict[str, Any]:
    """Classify samples, and store all predictions in one transaction, or none."""
    require_at_most("body", "items", len(batch.items), resources.settings.max_batch_items)
    resources.horizon.require_partition()
    rows = [features.as_row() for features in batch.items]
    answers = await resources.model.get().engine.predict_many(rows)
    references = [item.reference for item in batch.items]
    stored = await resources.recorder.record_all(NewBatch(caller, rows, answers, references, key))
    first, last = str(stored[0].id), str(stored[-1].id)
    logged |= {"first_id": first, "last_id": last, "count": len(stored)}
    _log_replay(logged, stored[0])
    return {"items": list(map(_answer, answers, stored))}


def _log_replay(logged: LogFields, stored: StoredPrediction) -> None:
    """Say in the request's log line if an earlier request stored the row."""
    if stored.replayed is not None:
        logged["replayed"] = True


def _answer(answer: ClassPrediction, stored: StoredPrediction) -> dict[str, Any]:
    """The fields of a `Prediction`, as a dict, which is ten times as fast to build.

    A repeated request gets its earlier prediction, even if the ML model has changed since.
    """
    if stored.replayed is not None:
        answer = stored.replayed
    return {
        "id": str(stored.id),  # pydantic takes 4 us for a UUID
        "prediction": answer.prediction,
        "prediction_label": answer.label,
        "probabilities": answer.probabilities,
        "model_version": answer.model_version,
        "created_at": stored.created_at,
    }
