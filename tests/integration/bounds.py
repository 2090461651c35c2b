"""An application at its bounds: what is at work in it, and that nothing is left of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.support.application import client_of, started
from tests.support.flowers import SETOSA

from iris_api.settings import Settings


def ask(client: AsyncClient, flower: dict[str, float] = SETOSA) -> "asyncio.Task[Response]":
    return asyncio.create_task(client.post("/predict", json=flower))


async def until_at_work(app: FastAPI, count: int) -> None:
    """Return when so many requests are at work."""
    limits = limits_of(app)
    async with asyncio.timeout(10):
        while len(limits.requests) != count:
            await asyncio.sleep(0)


def limits_of(app: FastAPI) -> Any:
    [limits] = [one.kwargs["limits"] for one in app.user_middleware if "limits" in one.kwargs]
    return limits


def bound_requests(app: FastAPI, seconds: float) -> None:
    """Let requests take so long from now on."""
    limits = limits_of(app)
    limits.default_policy = replace(limits.default_policy, timeout_seconds=seconds)


async def assert_idle(app: FastAPI) -> None:
    """Fail where something of a request that has ended is left."""
    limits = limits_of(app)
    assert (limits.requests, limits.held_bytes) == ({}, 0)
    pool = app.state.resources.engine.pool
    async with asyncio.timeout(10):
        while pool.checkedout():  # a group outlives the callers that were told to go
            await asyncio.sleep(0.01)


@asynccontextmanager
async def changed(settings: Settings, **changes: object) -> AsyncIterator[tuple[FastAPI, Any]]:
    """An application with other settings, and its client."""
    async with (
        started(settings.model_copy(update=changes)) as app,
        client_of(app) as client,
    ):
        yield app, client
        await assert_idle(app)


async def in_parts(parts: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
    """A body without a length, as the test gives it."""
    while part := await parts.get():
        yield part


def begin(client: AsyncClient, parts: "asyncio.Queue[bytes | None]") -> "asyncio.Task[Response]":
    headers = {"Content-Type": "application/json"}
    return asyncio.create_task(client.post("/predict", content=in_parts(parts), headers=headers))
