"""Checks that PostgreSQL accepts writes, and keeps them."""

from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.failures import translates_failures
from iris_api.database.pool import guard_of
from iris_api.database.transactions import driver_transaction


@translates_failures
async def ping(session: AsyncSession) -> None:
    """Return when PostgreSQL has said that it accepts writes, and keeps them.

    Raises `DatabaseUnavailable` or `DatabaseUnsafe`.
    """
    connection = await (await session.connection()).get_raw_connection()
    async with driver_transaction(connection, writes=False) as driver:
        await guard_of(connection).check_server(driver)
