"""What ``/readyz`` and ``/livez`` say, of a schema and of a database that does not store."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import execute, settings_for
from tests.integration.states import PARTS, assert_alive, checks
from tests.integration.trouble import writes_held_up
from tests.support.application import assert_problem, client_of, engine_of, running, started
from tests.support.flowers import SETOSA

from iris_api.database.migrations import head_revision, migrate
from iris_api.recording import recorder
from iris_api.settings import Settings


async def test_readyz_with_database_schema_and_model_is_200(client: AsyncClient) -> None:
    await assert_alive(client)
    assert await checks(client) == dict.fromkeys(PARTS, "ok")
    details = (await client.get("/readyz")).json()["checks"]
    assert head_revision() in details["schema"]["detail"]
    assert (await client.get("/model")).json()["version"] in details["model"]["detail"]


async def test_readyz_with_500_concurrent_requests_uses_one_connection(
    app: FastAPI, client: AsyncClient
) -> None:
    pool = app.state.resources.engine.pool

    async def ask() -> tuple[int, float]:
        response = await client.get("/readyz")
        return response.status_code, pool.checkedout()

    answers = await asyncio.gather(*(ask() for _ in range(500)))
    assert {status for status, _ in answers} == {200}
    assert max(busy for _, busy in answers) <= 1


async def test_readyz_with_an_empty_database_is_503_until_migrate(
    empty_database: URL, data_dir: Path
) -> None:
    settings = settings_for(empty_database, data_dir)
    async with running(settings) as client:
        await assert_alive(client)
        assert await checks(client) == {"database": "ok", "schema": "failed", "model": "ok"}
        assert "`iris-api migrate`" in (await client.get("/readyz")).json()["detail"]
        requests = [
            client.post("/predict", json=SETOSA),
            client.post("/predict/batch", json={"items": [SETOSA]}),
            client.get("/predictions"),
            client.get("/predictions/1"),
        ]
        for request in requests:
            body = assert_problem(await request, 503, "schema-outdated")
            assert "`iris-api migrate`" in body["detail"]
        await asyncio.to_thread(migrate, settings)
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_predict_and_predictions_without_a_needed_column_are_schema_outdated(
    client: AsyncClient, database: URL
) -> None:
    await asyncio.to_thread(execute, database, "ALTER TABLE iris_predictions DROP model_id")
    assert_problem(await client.post("/predict", json=SETOSA), 503, "schema-outdated")
    assert_problem(await client.get("/predictions"), 503, "schema-outdated")


async def test_readyz_with_a_newer_schema_revision_is_200(
    client: AsyncClient, database: URL
) -> None:
    """While replicas are updated one by one, the old ones meet it."""
    change = "UPDATE alembic_version SET version_num = 'from-the-future'"
    await asyncio.to_thread(execute, database, change)
    assert await checks(client) == dict.fromkeys(PARTS, "ok")
    assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_readyz_without_a_schema_revision_is_503(client: AsyncClient, database: URL) -> None:
    await asyncio.to_thread(execute, database, "DELETE FROM alembic_version")
    assert (await checks(client))["schema"] == "failed"


async def test_readyz_after_a_lock_timeout_of_predict_is_503(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    settings = settings.model_copy(update={"database_lock_timeout": 0.1})
    async with running(settings) as client:
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        async with writes_held_up(connection):
            for path, body in (("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA]})):
                assert_problem(await client.post(path, json=body), 503, "database-unavailable")
                assert (await checks(client))["database"] == "failed"
                assert "55P03" in (await client.get("/readyz")).json()["detail"]
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert await checks(client) == dict.fromkeys(PARTS, "ok")


async def test_readyz_while_all_connections_are_in_use_is_503_and_names_the_lock_timeout(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_REMEMBERED_SECONDS", 60)
    changes = {"database_pool_size": 1, "database_lock_timeout": 0.1, "readiness_timeout": 0.5}
    async with started(settings.model_copy(update=changes)) as app, client_of(app) as client:
        async with writes_held_up(connection):
            response = await client.post("/predict", json=SETOSA)
            assert_problem(response, 503, "database-unavailable")
            async with engine_of(app).connect():
                body = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert "in use" in body["detail"]
        assert "55P03" in body["detail"]
