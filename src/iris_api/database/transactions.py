"""Transactions of asyncpg's own, beneath SQLAlchemy's, and what it means where they break off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias, cast

import asyncpg
from sqlalchemy import PoolProxiedConnection

from iris_api.database.failures import is_outcome_unknown
from iris_api.database.session import EXPLICIT_TRANSACTIONS
from iris_api.errors import OutcomeUnknown

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class CancelledWhileStoring(asyncio.CancelledError):
    """The caller was cancelled when PostgreSQL had begun, so nobody can say what was stored."""


@asynccontextmanager
async def driver_transaction(
    connection: PoolProxiedConnection, *, explicit: bool = False
) -> AsyncIterator[Driver]:
    """The driver's connection; in a transaction where ``explicit``, or where PgBouncer wants it.

    Otherwise each statement is a transaction.
    """
    driver = cast(Driver, connection.driver_connection)
    explicit = explicit or EXPLICIT_TRANSACTIONS in connection.info
    transaction = driver.transaction() if explicit else None
    may_commit = transaction is None
    try:
        if transaction:
            await transaction.start()
        yield driver
        may_commit = True
        if transaction:
            await transaction.commit()
    except Exception as error:
        if is_outcome_unknown(error):
            driver.terminate()
            if may_commit:
                raise OutcomeUnknown("PostgreSQL broke off, or did not answer in time.") from error
        elif transaction and driver.is_in_transaction():
            await transaction.rollback()
        raise
    except asyncio.CancelledError as error:  # PostgreSQL is in the middle of something
        driver.terminate()
        if may_commit:
            raise CancelledWhileStoring from error
        raise
