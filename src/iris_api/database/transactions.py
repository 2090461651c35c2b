"""Transactions of asyncpg's own, beneath SQLAlchemy's, and what it means where they break off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
from sqlalchemy import PoolProxiedConnection

from iris_api.database.failures import is_connection_spent, is_outcome_unknown
from iris_api.database.pool import Driver, watch_of
from iris_api.errors import DatabaseUnavailable, OutcomeUnknown


class CancelledWhileStoring(asyncio.CancelledError):
    """The caller was cancelled when PostgreSQL had begun, so nobody can say what was stored."""


@asynccontextmanager
async def driver_transaction(
    connection: PoolProxiedConnection, *, explicit: bool = False, writes: bool = True
) -> AsyncIterator[Driver]:
    """The driver's connection; in a transaction where ``explicit``, or where PgBouncer wants it.

    Otherwise each statement is a transaction. Raises `OutcomeUnknown`, or for a caller that is
    cancelled `CancelledWhileStoring`, where one that ``writes`` may have been committed, and
    `DatabaseUnavailable` where the connection was lost before anything was sent.
    """
    driver = cast(Driver, connection.driver_connection)
    watch = watch_of(connection)
    if driver.is_closed():  # by the part of a group that was stored before this one
        raise DatabaseUnavailable("PostgreSQL broke off. Nothing was stored. Try again soon.")
    transaction = driver.transaction() if explicit or watch.explicit_transactions else None
    may_commit = writes and transaction is None
    try:
        if transaction:
            await transaction.start()
        yield driver
        may_commit = writes
        if transaction:
            await transaction.commit()
    except Exception as error:
        _forget_row(error)
        if is_connection_spent(error):
            driver.terminate()
            watch.distrust()
            if may_commit and is_outcome_unknown(error):
                raise OutcomeUnknown("PostgreSQL broke off, or did not answer in time.") from error
        elif transaction and driver.is_in_transaction():
            await transaction.rollback()
        raise
    except asyncio.CancelledError as error:  # PostgreSQL is in the middle of something
        driver.terminate()
        if may_commit:
            raise CancelledWhileStoring from error
        raise


def _forget_row(error: Exception) -> None:
    """Drop what PostgreSQL quotes of the row that it refuses, for measures are not for the log."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
