"""PgBouncer itself fails: it comes back, and so do the service's predictions."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from httpx2 import Response
from sqlalchemy import URL
from tests.conftest import dsn_of
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import SETOSA
from tests.support.pgbouncer import PATH, PgBouncer

from iris_api.database.migrations import migrate
from iris_api.errors import ConfigurationError
from iris_api.recording import recorder
from iris_api.settings import Settings

IS_INSTALLED = shutil.which("pgbouncer", path=PATH) is not None
pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="PgBouncer is not installed")


@pytest.fixture
def pooler(database: URL, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(database, tmp_path) as pooler:
        yield pooler


def settings_by(pooler: PgBouncer, settings: Settings, *, named: bool) -> Settings:
    """The settings of a service that goes by the pooler, and knows that it does where ``named``."""
    url = pooler.url.render_as_string(hide_password=False)
    changes = {"database_url": url, "database_pgbouncer": named}
    return Settings.model_validate({**settings.model_dump(), **changes})


async def test_readyz_and_migrate_with_an_undeclared_pgbouncer_fail_and_name_the_setting(
    settings: Settings, pooler: PgBouncer
) -> None:
    own = settings_by(pooler, settings, named=False)
    async with running(own) as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert "Set IRIS_DATABASE_PGBOUNCER=true." in response.json()["detail"]
    with pytest.raises(ConfigurationError, match="Set IRIS_DATABASE_PGBOUNCER=true"):
        await asyncio.to_thread(migrate, own)


IGNORED = """
ignore_startup_parameters = default_transaction_isolation, statement_timeout, lock_timeout,
    idle_in_transaction_session_timeout, client_connection_check_interval, tcp_keepalives_idle,
    tcp_keepalives_interval, tcp_keepalives_count
"""


@pytest.fixture
def lenient_pooler(database: URL, tmp_path: Path) -> Iterator[PgBouncer]:
    """A pooler that takes the parameters of a service that does not know of it."""
    pooler = PgBouncer(database, tmp_path)
    with (tmp_path / "pgbouncer.ini").open("a") as configuration:
        configuration.write(" ".join(IGNORED.split()))
    with pooler:
        yield pooler


@asynccontextmanager
async def first_server_taken(pooler: PgBouncer) -> AsyncIterator[None]:
    """Have the pooler send all other statements to another server, for the length of the block."""
    connection = await asyncpg.connect(dsn_of(pooler.url))
    await connection.execute("BEGIN")
    try:
        yield
    finally:
        await connection.close()


async def test_routes_with_an_undeclared_pgbouncer_that_takes_all_parameters_name_the_setting(
    settings: Settings,
    lenient_pooler: PgBouncer,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A statement that was prepared at one of its servers may be sent to another."""
    monkeypatch.setattr(recorder, "_REMEMBERED_SECONDS", 60)
    own = settings_by(lenient_pooler, settings, named=False)
    async with running(own.model_copy(update={"database_pool_size": 1})) as client:

        async def ask_all() -> list[Response]:
            return [
                await client.post("/predict", json=SETOSA),
                await client.post("/predict/batch", json={"items": [SETOSA]}),
                await client.get("/predictions"),
            ]

        assert {response.status_code for response in await ask_all()} == {200}
        async with first_server_taken(lenient_pooler):
            for response in await ask_all():
                body = assert_problem(response, 503, "database-unavailable")
                assert "Set IRIS_DATABASE_PGBOUNCER=true." in body["detail"]
            detail = assert_problem(await client.get("/readyz"), 503, "not-ready")["detail"]
            assert "Set IRIS_DATABASE_PGBOUNCER=true." in detail
    assert await count_rows(connection) == 2


TAKE_NAMES = """
    DO $$ BEGIN FOR n IN 1..10000 LOOP
        EXECUTE format('PREPARE %I (int) AS SELECT $1', '__asyncpg_stmt_' || to_hex(n) || '__');
    END LOOP; END $$
"""
"""Prepares a statement of one parameter under each name that the service's own may have."""


async def test_predict_with_an_undeclared_pgbouncer_and_a_foreign_statement_names_the_setting(
    settings: Settings, lenient_pooler: PgBouncer, connection: asyncpg.Connection
) -> None:
    """Each service counts its statements from 1."""
    own = settings_by(lenient_pooler, settings, named=False)
    async with running(own.model_copy(update={"database_pool_size": 1})) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        async with first_server_taken(lenient_pooler):
            other = await asyncpg.connect(dsn_of(lenient_pooler.url))
            await other.execute(TAKE_NAMES)
            await other.close()
            response = await client.post("/predict", json=SETOSA)
            body = assert_problem(response, 503, "outcome-unknown")
            assert "Set IRIS_DATABASE_PGBOUNCER=true." in body["detail"]
    assert await count_rows(connection) == 1


async def test_predict_after_a_failure_of_pgbouncer_is_200_again(
    settings: Settings, pooler: PgBouncer
) -> None:
    async with running(settings_by(pooler, settings, named=True)) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        pooler.fail()
        async with asyncio.timeout(30):
            while (response := await client.post("/predict", json=SETOSA)).status_code != 200:
                assert response.status_code == 503
                await asyncio.sleep(0.05)
