"""Transactions of asyncpg's own, beneath SQLAlchemy's, and what it means where they break off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import structlog
from asyncpg.transaction import Transaction
from sqlalchemy import PoolProxiedConnection

from iris_api.batching import CancelledWhileStoring
from iris_api.database.failures import is_outcome_unknown, should_discard
from iris_api.database.pool import Driver, guard_of
from iris_api.errors import DatabaseUnavailable, OutcomeUnknown

log = structlog.get_logger("iris_api")


def return_to_pool(connection: PoolProxiedConnection) -> None:
    """Return the connection to its pool. Raises nothing: what was committed on it is committed."""
    try:
        connection.close()
    except Exception:
        log.exception("connection_not_returned")


@asynccontextmanager
async def driver_transaction(
    connection: PoolProxiedConnection, *, explicit: bool = False, writes: bool = True
) -> AsyncIterator[Driver]:
    """The driver's connection; in a transaction where ``explicit``, or where PgBouncer wants it.

    Otherwise each statement is a transaction. One that does not ``write`` is rolled back at its
    end. A connection on which a transaction failed to begin, to commit or to roll back is closed.

    Raises `OutcomeUnknown`, or for a caller that is cancelled `CancelledWhileStoring`, where one
    that writes may have been committed, and `DatabaseUnavailable` where the connection was lost
    before anything was sent.
    """
    driver = cast(Driver, connection.driver_connection)
    watch = guard_of(connection)
    if driver.is_closed():  # by the part of a group that was stored before this one
        raise DatabaseUnavailable("PostgreSQL broke off. Nothing was stored. Try again soon.")
    transaction = None
    is_in_block = is_clean = may_commit = False
    try:
        if explicit or watch.explicit_transactions:
            transaction = driver.transaction(isolation="read_committed")
            await transaction.start()
        is_in_block = True
        may_commit = writes and transaction is None
        yield driver
        is_in_block = False
        may_commit = writes
        await _end(transaction, commit=writes)
        is_clean = True
    except Exception as error:
        _forget_row(error)
        if should_discard(error):
            watch.invalidate_all()
            if may_commit and is_outcome_unknown(error):
                raise OutcomeUnknown("PostgreSQL broke off, or did not answer in time.") from error
        elif is_in_block:
            is_clean = await _is_rolled_back(transaction)
        raise
    except asyncio.CancelledError as error:  # PostgreSQL is in the middle of something
        if may_commit:
            raise CancelledWhileStoring from error
        raise
    finally:
        if not is_clean:
            driver.terminate()


async def _end(transaction: Transaction | None, *, commit: bool) -> None:
    if transaction is not None:
        await (transaction.commit() if commit else transaction.rollback())


async def _is_rolled_back(transaction: Transaction | None) -> bool:
    """Roll back, where there is a transaction; whether that worked."""
    try:
        await _end(transaction, commit=False)
    except Exception as error:  # noqa: BLE001, what failed before is what the caller has to see
        log.warning("rollback_failed", error=type(error).__name__)
        return False
    return True


def _forget_row(error: Exception) -> None:
    """Drop what PostgreSQL quotes of the row that it refuses, for measures are not for the log."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
