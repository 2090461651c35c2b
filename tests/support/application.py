"""What the integration tests share: an application on any settings, rows, and problems judged."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from threading import Event
from typing import Any
from urllib.parse import unquote

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.conftest import dsn_of

from iris_api.app import create_app
from iris_api.auth.api_keys import create_api_key
from iris_api.database.session import session_scope
from iris_api.inference import Classifier
from iris_api.iris import ClassPrediction
from iris_api.settings import Settings

PROBLEM = "application/problem+json"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PARTITION = f"iris_predictions_{datetime.now(UTC):%Y_%m}"
"""The partition of the rows that are stored now."""


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[FastAPI]:
    """An application of its own."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


def engine_of(app: FastAPI) -> AsyncEngine:
    engine: AsyncEngine = app.state.session_factory.kw["bind"]
    return engine


def client_of(app: FastAPI, **headers: str) -> AsyncClient:
    """A client of an application in this process, which sends these headers with each request."""
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    return AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of an application of its own, for the settings that the fixtures do not have."""
    async with started(settings) as app, client_of(app) as client:
        yield client


async def make_key(
    settings: Settings, client: str = "somebody", *, scopes: tuple[str, ...] = ("predict", "read")
) -> dict[str, str]:
    """Make an API key; return the header that shows it."""
    async with session_scope(settings) as session:
        _, token = await create_api_key(session, client, scopes)
    return {"Authorization": f"Bearer {token}"}


class Held:
    """A classifier that answers when the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.released = Event(), Event()
        answer = Classifier.predict

        def predict(classifier: Classifier, rows: Any) -> list[ClassPrediction]:
            self.entered.set()
            assert self.released.wait(60), "the test has forgotten to release the classifier"
            return answer(classifier, rows)

        monkeypatch.setattr(Classifier, "predict", predict)

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


async def metric(client: AsyncClient, name: str, headers: Mapping[str, str] | None = None) -> float:
    """A metric's value, added up over its labels; 0 where there is none yet."""
    response = await client.get("/metrics", headers=headers)
    assert response.status_code == 200
    return sum(
        sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == name
    )


async def store(
    connection: asyncpg.Connection,
    *,
    label: str = "setosa",
    model_version: str | None = "model-1",
    created_at: datetime = NOON,
) -> str:
    """Insert a row beside the service, and return its id."""
    if model_version is not None:
        await connection.execute(
            "INSERT INTO models (version, labels) VALUES ($1, ARRAY[$2])"
            " ON CONFLICT (version) DO UPDATE SET labels = models.labels ||"
            " CASE WHEN $2 = ANY (models.labels) THEN '{}' ELSE ARRAY[$2] END",
            model_version,
            label,
        )
    prediction_id = await connection.fetchval(
        "INSERT INTO iris_predictions (id, sepal_length, sepal_width, petal_length, petal_width,"
        " prediction, prediction_label, model_id, created_at)"
        " VALUES (iris_prediction_id($3), 5.1, 3.5, 1.4, 0.2, 0, $1,"
        " coalesce((SELECT id FROM models WHERE version = $2), 1), $3) RETURNING id",
        label,
        model_version,
        created_at,
    )
    return str(prediction_id)


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
    assert response.headers.get_list("Cache-Control") == ["no-store"]
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:iris-api:problem:{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert unquote(body["instance"]) == response.request.url.path
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status in {429, 503})
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


async def metrics(client: AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The values of all metrics, by name and labels."""
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def sample_key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"iris_{name}", frozenset(labels.items())
