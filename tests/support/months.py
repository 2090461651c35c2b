"""The months of iris_predictions: the ones that a test wants, counted from the current one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import URL

from iris_api.errors import DatabaseUnavailable

SERVING_ROLE = "iris_serving"


async def remake_months(connection: asyncpg.Connection, *, ago: int, ahead: int) -> None:
    """Drop all months, with their rows; make those from so many months ago to so many ahead."""
    for name in await connection.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'iris_predictions'::regclass"
    ):
        await connection.execute(f"DROP TABLE {name[0]}")
    await connection.fetch(
        "SELECT iris_add_partitions($2, now() - make_interval(months => $1))", ago, ahead
    )


async def month_of(connection: asyncpg.Connection, *, ago: int) -> str:
    """The name of a month, as `iris-api partitions` has it."""
    month: str = await connection.fetchval(
        "SELECT to_char(now() AT TIME ZONE 'UTC' - make_interval(months => $1), 'YYYY-MM')", ago
    )
    return month


async def store_months_ago(connection: asyncpg.Connection, ago: int, count: int = 1) -> list[str]:
    """Insert rows into a past month, and return their ids, the oldest first."""
    rows = await connection.fetch(
        "INSERT INTO iris_predictions (id, created_at, sepal_length, sepal_width, petal_length,"
        " petal_width, prediction, prediction_label)"
        " SELECT iris_prediction_id(at), at, 5.1, 3.5, 1.4, 0.2, 0, 'setosa'"
        " FROM (SELECT now() - make_interval(months => $1) + interval '1 ms' * n AS at"
        " FROM generate_series(1, $2) AS n) AS times RETURNING id",
        ago,
        count,
    )
    return [str(row["id"]) for row in rows]


async def partitions_of(connection: asyncpg.Connection) -> int:
    """How many months the table has."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'iris_predictions'::regclass"
    )
    return count


async def interrupt_detach(connection: asyncpg.Connection, detaching: Awaitable[object]) -> None:
    """Start a DETACH CONCURRENTLY, and end its backend while it waits for other transactions.

    The connection has a transaction open in which it has used the table.
    """
    task = asyncio.ensure_future(detaching)
    async with asyncio.timeout(30):
        while not await connection.fetchval("SELECT bool_or(inhdetachpending) FROM pg_inherits"):
            await asyncio.sleep(0.02)
    await connection.fetch(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE query LIKE 'ALTER TABLE iris_predictions DETACH%' AND pid <> pg_backend_pid()"
    )
    with pytest.raises((DatabaseUnavailable, asyncpg.PostgresError)):
        await task


@asynccontextmanager
async def role_without_tables(connection: asyncpg.Connection, database: URL) -> AsyncIterator[URL]:
    """A role that owns nothing and may do nothing; yields the database's URL with it."""
    await connection.execute(f"CREATE ROLE {SERVING_ROLE} LOGIN PASSWORD 'secret'")
    try:
        yield database.set(username=SERVING_ROLE, password="secret")  # noqa: S106, no secret
    finally:
        await connection.execute(f"DROP OWNED BY {SERVING_ROLE}; DROP ROLE {SERVING_ROLE}")
