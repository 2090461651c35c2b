"""For those who run the service: is it alive, is it ready, and its metrics."""

import asyncio
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from iris_api.api.access import KEY_PROBLEMS, SECURED, Admin
from iris_api.api.problems import problem_responses
from iris_api.api.resources import ProcessResources, Resources
from iris_api.database.crud import ping
from iris_api.errors import InternalError, ModelUnavailable, NotReady, Problem

router = APIRouter(tags=["operations"])


class Liveness(BaseModel):
    """The event loop turns."""

    status: Literal["alive"] = "alive"


class Check(BaseModel):
    """The state of one part."""

    status: Literal["ok", "failed", "unknown"]
    detail: str


class Readiness(BaseModel):
    """All parts that a prediction needs are there."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Check]


@router.get("/livez", summary="Is the process alive?", responses=problem_responses(InternalError))
async def livez() -> Liveness:
    """Says so without looking at the database or the model: restart the process if it does not."""
    return Liveness()


@router.get(
    "/readyz",
    summary="Can the service predict?",
    responses=problem_responses(InternalError, NotReady),
)
async def readyz(request: Request, resources: ProcessResources) -> Readiness:
    """The state of the database, its schema and the model; 503 while one of them is missing."""
    if request.app.state.is_stopping:
        raise NotReady("The service is stopping. Ask another replica.", {})
    checks = {**await _check_database_in_time(resources), "model": _check_model(resources)}
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
    responses={
        200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}},
        **problem_responses(*KEY_PROBLEMS, InternalError),
    },
    openapi_extra=SECURED,
)
async def metrics(resources: ProcessResources, _caller: Admin) -> Response:
    """Requests, latencies, inference, connections, and predictions by label and model."""
    return Response(resources.metrics.render(), media_type=CONTENT_TYPE_LATEST)


async def _check_database_in_time(resources: Resources) -> dict[str, Check]:
    """Bounded, for a database that is frozen, or that the network does not reach, says nothing."""
    try:
        async with asyncio.timeout(resources.readiness_timeout):
            return await _check_database(resources)
    except TimeoutError:
        return _no_database(f"PostgreSQL did not answer in {resources.readiness_timeout:g} s.")


async def _check_database(resources: Resources) -> dict[str, Check]:
    async with resources.session_factory() as session:
        try:
            await ping(session)
        except Problem as problem:
            return _no_database(problem.detail)
        trouble = resources.recorder.trouble()
        if trouble is not None:
            return _no_database(f"Predictions were not stored just now. {trouble.detail}")
        database = Check(status="ok", detail="PostgreSQL answers.")
        try:
            revision = await resources.schema_check(session)
        except Problem as problem:
            return {"database": database, "schema": Check(status="failed", detail=problem.detail)}
        return {
            "database": database,
            "schema": Check(status="ok", detail=f"At revision {revision}."),
        }


def _no_database(detail: str) -> dict[str, Check]:
    return {
        "database": Check(status="failed", detail=detail),
        "schema": Check(status="unknown", detail="The database did not say."),
    }


def _check_model(resources: Resources) -> Check:
    if isinstance(resources.model, ModelUnavailable):
        return Check(status="failed", detail=resources.model.detail)
    return Check(status="ok", detail=f"{resources.model.manifest.version} is loaded.")
