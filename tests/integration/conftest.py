"""What the integration tests share, apart from the database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
import structlog
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import dsn_of, settings_for
from tests.support.application import Held, running, started

from iris_api.settings import Settings


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> Iterator[None]:
    """Log in plain lines: structlog's own default draws each traceback for a terminal."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    yield
    structlog.reset_defaults()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.fixture
async def poisoned(connection: asyncpg.Connection) -> None:
    """Have PostgreSQL refuse the row of `POISON`, and break off at the row of `KILLER`."""
    await connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.sepal_length = 6.66 THEN RAISE EXCEPTION 'poison'; END IF;
            IF NEW.sepal_length = 7.77 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON iris_predictions
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """)


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    """The settings of a service that asks for API keys, and soon forgets what it knows of them."""
    return settings.model_copy(update={"auth": "keys", "key_cache_seconds": 0.2})


@pytest.fixture
async def guarded(keyed: Settings) -> AsyncIterator[FastAPI]:
    """An application that asks for keys."""
    async with started(keyed) as app:
        yield app


# For the long tables of requests that leave no trace: one application for all rows of a table.


@pytest.fixture(scope="module")
def shared_settings(service_database: URL, trained_model: Path) -> Settings:
    return settings_for(service_database, trained_model)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_client(shared_settings: Settings) -> AsyncIterator[AsyncClient]:
    async with running(shared_settings) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_connection(service_database: URL) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn_of(service_database))
    yield connection
    await connection.close()
