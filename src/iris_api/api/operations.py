"""Endpoints for operators: liveness, readiness and metrics."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from iris_api.errors import InternalError, ModelUnavailable, NotReady
from iris_api.recording.readiness import Check
from iris_api.resources import ProcessResources, Resources
from iris_api.web.access import KEY_PROBLEMS, OPEN, SECURED, Admin
from iris_api.web.examples import ALIVE, METRICS, READY, success
from iris_api.web.problems import problem_responses
from iris_api.web.read_route import ReadRoute

router = APIRouter(route_class=ReadRoute, tags=["operations"])


class Liveness(BaseModel):
    """The event loop runs."""

    status: Literal["alive"] = Field("alive", description="The only state that answers")


class Readiness(BaseModel):
    """Every part that a prediction needs is ok."""

    status: Literal["ready"] = Field("ready", description="Any other state is a problem")
    checks: dict[str, Check] = Field(description="The state of `database`, `schema` and `model`")


@router.get(
    "/livez",
    summary="Is the process alive?",
    response_description="The process is alive",
    responses={**success(ALIVE), **problem_responses(InternalError)},
    openapi_extra=OPEN,
)
async def get_liveness() -> Liveness:
    """Checks neither database nor model. If it does not answer, restart the process."""
    return Liveness()


@router.get(
    "/readyz",
    summary="Can the service predict?",
    response_description="The service can predict",
    responses={**success(READY), **problem_responses(InternalError, NotReady)},
    openapi_extra=OPEN,
)
async def get_readiness(resources: ProcessResources) -> Readiness:
    """The state of the database, its schema and the model; 503 if one is not ok, or at shutdown."""
    try:
        readiness = await _readiness(resources)
    except NotReady:
        resources.metrics.set_ready(False)
        raise
    resources.metrics.set_ready(True)
    return readiness


async def _readiness(resources: Resources) -> Readiness:
    if resources.is_stopping:
        raise NotReady("The service is stopping. Ask another replica.", {})
    checks = {**await resources.database_check(), "model": _check_model(resources)}
    failed = [f"{name}: {check.detail}" for name, check in checks.items() if check.status != "ok"]
    if failed:
        raise NotReady(
            " ".join(failed), {name: check.model_dump() for name, check in checks.items()}
        )
    return Readiness(checks=checks)


@router.get(
    "/metrics",
    summary="Metrics in Prometheus' text format",
    response_class=Response,
    response_description="The metrics",
    responses={
        200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}, "example": METRICS}}},
        **problem_responses(*KEY_PROBLEMS, InternalError),
    },
    openapi_extra=SECURED,
)
async def get_metrics(resources: ProcessResources, _caller: Admin) -> Response:
    """Requests, latencies, inference, connections, and predictions by label and model."""
    return Response(resources.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _check_model(resources: Resources) -> Check:
    try:
        model = resources.model.get()
    except ModelUnavailable as problem:
        return Check(status="failed", detail=problem.detail)
    return Check(status="ok", detail=f"{model.manifest.version} is loaded.")
