"""The card of the model that answers."""

from fastapi import APIRouter

from iris_api.api.problems import problem_responses
from iris_api.api.resources import Model
from iris_api.errors import InternalError, ModelUnavailable
from iris_api.inference.artifact import Manifest

router = APIRouter(tags=["model"])


@router.get(
    "/model",
    summary="Read the active model's card",
    responses=problem_responses(InternalError, ModelUnavailable),
)
async def read_model(model: Model) -> Manifest:
    """Version, digest, libraries, classes, features with their ranges, and scores."""
    return model.manifest
