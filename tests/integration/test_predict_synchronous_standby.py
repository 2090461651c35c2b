"""A PostgreSQL whose commits wait for a synchronous standby."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url
from tests.conftest import dsn_of
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import SETOSA

from iris_api.database.migrations import migrate
from iris_api.embedded.postgres import provide_database
from iris_api.settings import Settings

KEY = {"Idempotency-Key": "mine"}
END_WAITING = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def name_standbys(connection: asyncpg.Connection, names: str) -> None:
    """Say whom commits wait for, and return when it holds."""
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    await connection.execute("SELECT pg_reload_conf()")
    while await connection.fetchval("SHOW synchronous_standby_names") != names:
        pass


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Settings]:
    """A server of the test's own, for the parameter is the whole server's."""
    with provide_database(Settings(data_dir=tmp_path / "server"), exclusive=True) as settings:
        migrate(settings)
        yield settings


@pytest.fixture
async def observer(own_server: Settings) -> AsyncIterator[asyncpg.Connection]:
    assert own_server.database_url is not None
    url = make_url(own_server.database_url.get_secret_value())
    connection = await asyncpg.connect(dsn_of(url))
    yield connection
    await connection.close()


async def test_predict_repeated_before_a_standby_confirms_is_outcome_unknown(
    own_server: Settings, data_dir: Path, observer: asyncpg.Connection
) -> None:
    """A restart that ends the wait leaves it committed here, where a failover would lose it."""
    changes = {"data_dir": data_dir, "database_command_timeout": 0.5}
    async with running(own_server.model_copy(update=changes)) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200  # names its model
        await name_standbys(observer, "nobody")
        first = await client.post("/predict", json=SETOSA, headers=KEY)
        assert_problem(first, 503, "outcome-unknown")
        await observer.execute(END_WAITING)
        async with asyncio.timeout(20):
            while await count_rows(observer) == 1:
                await asyncio.sleep(0.02)
        again = await client.post("/predict", json=SETOSA, headers=KEY)
        assert_problem(again, 503, "outcome-unknown")
        await name_standbys(observer, "")
        assert (await client.post("/predict", json=SETOSA, headers=KEY)).status_code == 200
    assert await count_rows(observer) == 2
