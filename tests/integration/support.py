"""What the integration tests share: an application on any settings, rows, and problems judged."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import asyncpg
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import URL
from tests.conftest import dsn_of

from iris_api.app import create_app
from iris_api.settings import Settings

SETOSA = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
VIRGINICA = {"sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6.0, "petal_width": 2.5}
PROBLEM = "application/problem+json"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of an application of its own, for the settings that the fixtures do not have."""
    app = create_app(settings)
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://iris") as client,
    ):
        yield client


async def store(
    connection: asyncpg.Connection,
    *,
    label: str = "setosa",
    model_version: str | None = "model-1",
    created_at: datetime = NOON,
) -> int:
    """Insert a row beside the service, and return its id."""
    number: int = await connection.fetchval(
        "INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,"
        " prediction, prediction_label, model_version, created_at)"
        " VALUES (5.1, 3.5, 1.4, 0.2, 0, $1, $2, $3) RETURNING id",
        label,
        model_version,
        created_at,
    )
    return number


async def count_rows(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval("SELECT count(*) FROM iris_predictions")
    return number


def fetch(url: URL, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query on a connection of its own, for tests that are not coroutines."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(dsn_of(url))
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(run())


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document; it needs no database."""
    return create_app(Settings()).openapi()


def assert_problem(
    response: Response, status: int, slug: str, *, field: str | None = None
) -> dict[str, Any]:
    """Hold an answer against RFC 9457, the service's promises and its own OpenAPI document."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == PROBLEM
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:iris-api:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == response.request.url.path
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status == 503)
    if field is not None:
        assert field in [error["field"] for error in body["errors"]]
        assert all(set(error) == {"in", "field", "code", "detail"} for error in body["errors"])
        assert field in body["detail"]
    _assert_documented(response, slug)
    return body


def _assert_documented(response: Response, slug: str) -> None:
    operation = _operation_of(response.request.method.lower(), response.request.url.path)
    if operation is None:
        return  # the router's own 404 and 405 belong to no operation
    content = operation["responses"][str(response.status_code)]["content"]
    assert slug in content[PROBLEM]["examples"]


def _operation_of(method: str, path: str) -> dict[str, Any] | None:
    paths = document()["paths"]
    templates = [path, *(one for one in paths if "{" in one)]
    for template in templates:
        pattern = re.sub(r"\\{[^/]+\\}", "[^/]+", re.escape(template))
        if template in paths and re.fullmatch(pattern, path) and method in paths[template]:
            operation: dict[str, Any] = paths[template][method]
            return operation
    return None
