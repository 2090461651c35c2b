"""asyncpg's transactions, beneath SQLAlchemy's, and the meaning of their failures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import structlog
from asyncpg.transaction import Transaction
from sqlalchemy import PoolProxiedConnection

from iris_api.batching import CancelledWhileStoring
from iris_api.database.advice import advice_on
from iris_api.database.failures import is_outcome_unknown, should_discard
from iris_api.database.pool import Driver, guard_of
from iris_api.errors import DatabaseUnavailable, OutcomeUnknown

_DISCONNECTED = "PostgreSQL disconnected, or did not answer in time."
log = structlog.get_logger("iris_api")


def return_to_pool(connection: PoolProxiedConnection) -> None:
    """Return the connection to its pool. Never raises: a commit on it stays valid."""
    try:
        connection.close()
    except Exception:
        log.exception("connection_not_returned")


@asynccontextmanager
async def driver_transaction(
    connection: PoolProxiedConnection, *, explicit: bool = False, writes: bool = True
) -> AsyncIterator[Driver]:
    """Yield the driver's connection; in a transaction if ``explicit``, or if PgBouncer is used.

    Otherwise each statement is a transaction. Without ``writes``, the transaction is rolled back at
    its end. A connection on which a transaction failed to begin, commit or roll back is closed.

    Raises `OutcomeUnknown`, or `CancelledWhileStoring` if the caller is cancelled, where a writing
    transaction may have committed, and `DatabaseUnavailable` where the connection was lost before
    anything was sent.
    """
    driver = cast(Driver, connection.driver_connection)
    guard = guard_of(connection)
    if driver.is_closed():  # an earlier part of the group lost it
        raise DatabaseUnavailable("PostgreSQL disconnected. Nothing was stored. Try again soon.")
    transaction = None
    is_in_block = is_clean = may_commit = False
    try:
        if explicit or guard.explicit_transactions:
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
            guard.invalidate_all()
            if may_commit and is_outcome_unknown(error):
                raise OutcomeUnknown(advice_on(error) or _DISCONNECTED) from error
        elif is_in_block:
            is_clean = await _is_rolled_back(transaction)
        raise
    except asyncio.CancelledError as error:  # PostgreSQL may be running a statement
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
    """Roll back if there is a transaction; return whether that worked."""
    try:
        await _end(transaction, commit=False)
    except Exception as error:  # noqa: BLE001, the caller gets the first failure
        log.warning("rollback_failed", error=type(error).__name__)
        return False
    return True


def _forget_row(error: Exception) -> None:
    """Drop the values that PostgreSQL quotes of a refused row: they must not be logged."""
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None
