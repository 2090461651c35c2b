"""Connections on which a transaction failed to begin, commit or roll back are not used again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.pool import ConnectionPoolEntry
from tests.conftest import settings_for
from tests.support.application import assert_problem, client_of, count_rows, engine_of, started
from tests.support.flowers import SETOSA, VIRGINICA
from tests.support.proxy import Proxy

from iris_api.database import IrisFeatures, IrisPrediction, create_prediction
from iris_api.errors import Problem

BATCH = {"items": [SETOSA, VIRGINICA]}


@pytest.fixture
async def proxy(database: URL) -> AsyncIterator[Proxy]:
    async with Proxy.before(database) as proxy:
        yield proxy


@pytest.fixture(params=[False, True], ids=["direct", "as for PgBouncer"])
async def app(
    request: pytest.FixtureRequest, proxy: Proxy, data_dir: Path
) -> AsyncIterator[FastAPI]:
    """A service with one connection, by the proxy."""
    settings = settings_for(proxy.url, data_dir, database_pool_size=1)
    settings = settings.model_copy(update={"database_pgbouncer": request.param})
    async with started(settings) as app:
        yield app


async def ask(client: AsyncClient, path: str) -> int:
    body: Any = {"/predict": SETOSA, "/predict/batch": BATCH}.get(path)
    response = await (client.post(path, json=body) if body else client.get(path))
    if response.status_code != 200:
        kind = "not-ready" if path == "/readyz" else "database-unavailable"
        assert_problem(response, 503, kind)
    return response.status_code


PATHS = ("/predict", "/predict/batch", "/predictions", "/predictions?label=setosa", "/readyz")


@pytest.mark.parametrize("word", ["BEGIN", "COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("path", PATHS)
async def test_routes_after_a_refused_begin_commit_or_rollback_are_200(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection, path: str, word: str
) -> None:
    assert await ask(client, path) == 200
    rows = await count_rows(connection)
    proxy.refuse(word)
    status = await ask(client, path)
    was_sent = proxy.has_refused()  # not each of them begins, or commits, by a word of its own
    proxy.refuse("nothing")
    stored = {"/predict": 1, "/predict/batch": 2}.get(path, 0)
    if was_sent and word != "ROLLBACK":
        assert status == 503
        stored = 0
    assert await count_rows(connection) == rows + stored
    for other in PATHS * 2:
        assert await ask(client, other) == 200, other
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    own = " AND application_name = 'iris-api' AND datname = current_database()"
    assert await connection.fetchval(idle + own) == 0


@pytest.mark.parametrize("word", ["BEGIN", "COMMIT"])
async def test_create_prediction_with_a_refused_begin_or_commit_raises_and_the_next_stores(
    app: FastAPI, proxy: Proxy, connection: asyncpg.Connection, word: str
) -> None:
    async def store() -> UUID:
        session: AsyncSession
        async with app.state.session_factory() as session:
            row = IrisPrediction.from_request(IrisFeatures(**SETOSA), 0)
            return (await create_prediction(session, row)).id

    await store()
    proxy.refuse(word)
    with pytest.raises(Problem, match=r"Nothing was stored\."):
        await store()
    assert proxy.has_refused()
    for _ in range(3):
        await store()
    assert await count_rows(connection) == 4


async def test_predict_batch_with_a_refused_rollback_reports_the_first_failure(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    assert await ask(client, "/predict") == 200
    await connection.execute("ALTER TABLE iris_predictions ADD CHECK (petal_width < 2) NOT VALID")
    proxy.refuse("ROLLBACK")
    response = await client.post("/predict/batch", json=BATCH)
    assert "23514" in assert_problem(response, 500, "not-stored")["detail"]
    assert proxy.has_refused()
    body = {"items": [SETOSA] * 2}
    assert (await client.post("/predict/batch", json=body)).status_code == 200
    assert await count_rows(connection) == 1 + 2


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_predict_with_a_failing_connection_checkin_is_200_and_logged(
    app: FastAPI,
    client: AsyncClient,
    connection: asyncpg.Connection,
    path: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is behind the commit, so it is none of the caller's."""

    def fail(connection: Any, _record: ConnectionPoolEntry) -> None:
        connection.driver_connection.terminate()
        raise OSError(24, "Too many open files")

    assert await ask(client, "/predict") == 200
    pool = engine_of(app).sync_engine.pool
    event.listen(pool, "checkin", fail)
    assert await ask(client, path) == 200
    assert "connection_not_returned" in capsys.readouterr().out
    event.remove(pool, "checkin", fail)
    assert await count_rows(connection) == 1 + {"/predict": 1, "/predict/batch": 2}[path]


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with client_of(app) as client:
        yield client
