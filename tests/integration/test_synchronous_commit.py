"""A PostgreSQL that loses what it has confirmed is no place for predictions."""

import asyncio

import asyncpg
import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import execute
from tests.integration.trouble import (
    END_CONNECTIONS,
    predict_once_noticed,
    running_unpooled,
    set_everywhere,
    until_pooler_tries_again,
)
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import SETOSA

from iris_api.database.session import require_durable
from iris_api.errors import DatabaseUnsafe
from iris_api.settings import Settings

SAFE = ["on", "local", "remote_write", "remote_apply"]
BATCH = {"items": [SETOSA] * 3}


def set_commit(database: URL, value: str) -> None:
    execute(database, f"ALTER DATABASE {database.database} SET synchronous_commit = {value}")


@pytest.fixture
def unsafe(database: URL) -> URL:
    """A database that answers before its log is on the disk."""
    set_commit(database, "off")
    return database


async def assert_refused(client: AsyncClient) -> None:
    readiness = assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert readiness["checks"]["database"]["status"] == "failed"
    for response in [
        await client.post("/predict", json=SETOSA),
        await client.post("/predict/batch", json=BATCH),
        await client.get("/predictions"),
        await client.get("/predictions/1"),
    ]:
        body = assert_problem(response, 503, "database-unsafe")
        for detail in (body["detail"], readiness["detail"]):
            assert "synchronous_commit off" in detail
            assert "IRIS_ALLOW_UNSAFE_DATABASE" in detail


async def test_routes_with_synchronous_commit_off_are_503_until_it_is_on(
    unsafe: URL, settings: Settings, connection: asyncpg.Connection
) -> None:
    async with running(settings) as client:
        await assert_refused(client)
        assert (await client.get("/livez")).status_code == 200
        assert await count_rows(connection) == 0
        await asyncio.to_thread(set_commit, unsafe, "on")
        if settings.database_pgbouncer:  # its connections are as they were
            await connection.execute(END_CONNECTIONS)
        await until_pooler_tries_again(settings, client)
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


@pytest.mark.usefixtures("unsafe")
async def test_routes_with_synchronous_commit_off_close_their_connections(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """PostgreSQL has some hundred of them for everybody."""
    if settings.database_pgbouncer:
        pytest.skip("PgBouncer keeps connections of its own")
    open_ones = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'iris-api'"
    )
    async with running(settings) as client:
        for _ in range(5):
            await assert_refused(client)
        async with asyncio.timeout(10):
            while await connection.fetchval(open_ones):
                await asyncio.sleep(0.02)


@pytest.mark.usefixtures("unsafe")
async def test_routes_with_synchronous_commit_off_and_allow_unsafe_database_are_200(
    settings: Settings, connection: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = settings.model_copy(update={"allow_unsafe_database": True})
    await require_durable(allowed)
    async with running(allowed) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert (await client.post("/predict/batch", json=BATCH)).status_code == 200
    assert await count_rows(connection) == 4
    assert "database_not_durable" in capsys.readouterr().out


@pytest.mark.parametrize("value", SAFE)
async def test_readyz_with_a_durable_synchronous_commit_is_200(
    database: URL, settings: Settings, value: str
) -> None:
    await asyncio.to_thread(set_commit, database, value)
    await require_durable(settings)
    async with running(settings) as client:
        assert (await client.get("/readyz")).status_code == 200


async def test_routes_after_synchronous_commit_is_set_off_are_503_on_a_new_connection(
    database: URL, settings: Settings, connection: asyncpg.Connection
) -> None:
    async with running(settings) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        await asyncio.to_thread(set_commit, database, "off")
        await connection.execute(END_CONNECTIONS)
        await predict_once_noticed(client)
        await assert_refused(client)


async def test_readyz_after_synchronous_commit_is_set_off_on_a_connection_is_503(
    database: URL, settings: Settings, connection: asyncpg.Connection
) -> None:
    async with running_unpooled(settings, database) as (app, client):
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        await asyncio.to_thread(set_commit, database, "off")
        await set_everywhere(app, "synchronous_commit", "off")
        await assert_refused(client)
        assert await count_rows(connection) == 1
        await asyncio.to_thread(set_commit, database, "on")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


@pytest.mark.usefixtures("unsafe")
async def test_require_durable_with_synchronous_commit_off_raises_database_unsafe(
    settings: Settings,
) -> None:
    with pytest.raises(DatabaseUnsafe, match="synchronous_commit off"):
        await require_durable(settings)


async def test_require_durable_with_an_unreachable_database_does_not_raise(
    server_url: URL, settings: Settings
) -> None:
    for url in (server_url.set(database="iris_nowhere"), "postgresql://a:b@127.0.0.1:9/iris"):
        text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
        changes = {**settings.model_dump(exclude={"database_url"}), "database_url": text}
        await require_durable(Settings.model_validate(changes))
