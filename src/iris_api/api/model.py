"""The endpoint for the active ML model's card."""

from fastapi import APIRouter

from iris_api.errors import DeadlineExceeded, InternalError, ModelUnavailable
from iris_api.inference.manifest import ModelCard
from iris_api.resources import Model
from iris_api.web.access import ACCESS_PROBLEMS, SECURED, Reader
from iris_api.web.problems import problem_responses
from iris_api.web.read_route import ReadRoute

router = APIRouter(route_class=ReadRoute, tags=["model"])


@router.get(
    "/model",
    summary="Read the active model's card",
    responses=problem_responses(
        *ACCESS_PROBLEMS, InternalError, DeadlineExceeded, ModelUnavailable
    ),
    openapi_extra=SECURED,
)
async def read_model(model: Model, _caller: Reader) -> ModelCard:
    """Version, digest, libraries, classes, features with their ranges, and scores."""
    return model.manifest
