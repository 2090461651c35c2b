"""Trouble that the tests make for PostgreSQL, and how they see that it has come, or has passed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import URL, text
from tests.support.application import client_of, started
from tests.support.flowers import SETOSA

from iris_api.settings import Settings

END_CONNECTIONS = """
    SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
    WHERE application_name = 'iris-api'
"""
"""Ends all of the services' connections, and waits until they have ended."""


@asynccontextmanager
async def running_unpooled(
    settings: Settings, database: URL
) -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    """An application, and its client, with one connection to PostgreSQL and no PgBouncer between.

    For tests that change what this very connection has at the server's end.
    """
    changes = {
        "database_url": SecretStr(database.render_as_string(hide_password=False)),
        "database_pgbouncer": False,
        "database_pool_size": 1,
    }
    async with started(settings.model_copy(update=changes)) as app, client_of(app) as client:
        yield app, client


async def until_blocked(connection: asyncpg.Connection) -> None:
    """Return when a statement of the service waits for a lock."""
    async with asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        ):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def writes_held_up(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Let no row be inserted for the length of the block; reads pass."""
    lock = connection.transaction()
    await lock.start()
    await connection.execute("LOCK iris_predictions IN SHARE MODE")
    try:
        yield
    finally:
        await lock.rollback()


async def predict_once_noticed(client: AsyncClient) -> Response:
    """The answer of a service that has noticed which connections have ended.

    A statement that is sent while PostgreSQL is ending its connection has an unknown outcome.
    """
    for _ in range(20):
        response = await client.post("/predict", json=SETOSA)
        if not response.json().get("type", "").endswith(":outcome-unknown"):
            return response
    raise AssertionError("every connection of the pool has ended, and none was noticed")


async def until_pooler_tries_again(settings: Settings, client: AsyncClient) -> None:
    """Return when PgBouncer, where it stands between, has noticed that the database is back."""
    if settings.database_pgbouncer:
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)


async def set_everywhere(app: FastAPI, parameter: str, value: str) -> None:
    """Change a parameter on the one connection of an application's pool, as a reload would."""
    async with app.state.session_factory() as session:
        await session.execute(text(f"SET SESSION {parameter} = {value}"))
        await session.commit()
