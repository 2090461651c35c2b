"""Checks the server of each pooled connection, and replaces connections that are lost."""

import math
import time
from collections.abc import Collection
from typing import Any, TypeAlias, cast

import asyncpg
import structlog
from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from iris_api.errors import DatabaseUnavailable, DatabaseUnsafe
from iris_api.settings import Settings

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
NETWORK_SECONDS = 1.0
"""Seconds that a statement may spend on the network, in addition to its own time."""
READ_ONLY = "25006"
"""The SQLSTATE of a server that accepts no writes: read_only_sql_transaction."""
_WATCH, _MADE_AT, _IS_NEW = "iris_watch", "iris_made_at", "iris_is_new"
_HAS_FAILED = "iris_has_failed"
"""Keys of a connection's ``info``."""
_SERVER = """
    WITH used AS (SELECT to_regclass(name) AS oid FROM unnest($1::text[]) AS name),
    kept AS (
        SELECT oid FROM used
        UNION ALL
        SELECT inhrelid FROM pg_inherits JOIN used ON inhparent = oid
    )
    SELECT
        current_setting('transaction_read_only') = 'on',
        ARRAY(
            SELECT name
            FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) AS name
            WHERE current_setting(name) = 'off'),
        ARRAY(
            SELECT relname::text FROM pg_class JOIN kept USING (oid)
            WHERE relpersistence = 'u' ORDER BY 1)
"""
log = structlog.get_logger("iris_api")


class ConnectionGuard:
    """Keeps an engine's pool from handing out unusable connections.

    The server is checked whenever a connection is made, because a failover changes it, and again
    by each readiness check.
    """

    def __init__(self, settings: Settings, tables: Collection[str]) -> None:
        """``tables`` are those that must survive a crash of PostgreSQL."""
        self.explicit_transactions = settings.database_pgbouncer
        """Without a transaction, PgBouncer may send a statement's parts to different servers."""
        self.seconds = settings.database_command_timeout + NETWORK_SECONDS
        """How many seconds the driver waits for a statement."""
        self._allow_unsafe = settings.allow_unsafe_database
        self._tables = tables
        self._distrusted_at = -math.inf

    def attach(self, engine: Engine) -> None:
        """Watch this engine's pool from now on."""
        event.listen(engine.pool, "connect", self._on_connect)
        event.listen(engine.pool, "checkout", self._on_checkout)
        event.listen(engine.pool, "checkin", _on_checkin)
        event.listen(engine, "handle_error", _on_error)

    def invalidate_all(self) -> None:
        """Replace each connection that is open now before its next use.

        If one was lost, the others may be dead too, without notice.
        """
        self._distrusted_at = time.monotonic()

    async def check_server(self, driver: Driver) -> list[str]:
        """Check the server; return its unsafe settings and tables, where these are allowed.

        Raises `DatabaseUnavailable` where it accepts no writes, `DatabaseUnsafe` where it may lose
        what it has confirmed; either calls `invalidate_all`.
        """
        server = await driver.fetchrow(_SERVER, list(self._tables))
        assert server is not None, "without FROM, it is one row"  # noqa: S101
        is_read_only, off, unlogged = server
        if is_read_only:
            self.invalidate_all()
            raise DatabaseUnavailable(
                "PostgreSQL takes no writes: it is a standby, or default_transaction_read_only is "
                "on. Nothing was stored. Try again soon."
            )
        unsafe = [f"{name} off" for name in off] + [f"{name} UNLOGGED" for name in unlogged]
        if unsafe and not self._allow_unsafe:
            self.invalidate_all()
            raise DatabaseUnsafe(
                f"PostgreSQL runs with {', '.join(unsafe)}, so it may lose what it has confirmed. "
                "Turn the settings on, ALTER TABLE ... SET LOGGED, or set "
                "IRIS_ALLOW_UNSAFE_DATABASE=true."
            )
        return unsafe

    def _on_connect(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info[_WATCH] = self
        record.info[_MADE_AT] = time.monotonic()
        record.info[_IS_NEW] = True

        async def look(driver: Driver) -> list[str]:
            try:
                async with driver.transaction():  # for PgBouncer
                    return await self.check_server(driver)
            except BaseException:
                driver.terminate()
                raise

        unsafe = cast(AsyncAdapt_asyncpg_connection, connection).run_async(look)
        if unsafe:
            log.warning("database_not_durable", unsafe=unsafe)

    def _on_checkout(
        self, connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object
    ) -> None:
        """Make the pool replace a connection that is closed or invalidated.

        After a restart, this finds as much as ``pool_pre_ping``, without its round trip, which
        hangs if the network drops all packets.

        A new connection is not replaced, even if others were lost while it was made: another would
        be no better. The pool would try once more, then fail with an error that names no reason.
        """
        driver: Driver = cast(Any, connection).driver_connection
        is_new = record.info.pop(_IS_NEW, False)
        if record.info[_MADE_AT] <= self._distrusted_at and not is_new:
            driver.terminate()
        if driver.is_closed() and is_new:
            raise DatabaseUnavailable(
                "PostgreSQL disconnected. Nothing was stored. Try again soon."
            )
        if driver.is_closed():
            raise DisconnectionError


def _on_error(context: ExceptionContext) -> None:
    """Mark a session's connection, so that it is not used again.

    After a failed BEGIN, asyncpg continues as if within a transaction. Neither SQLAlchemy's reset
    nor this code can see that, so any failure ends its connection. A failed COMMIT or ROLLBACK has
    no statement here; SQLAlchemy would not even return its connection to the pool, unless it is
    marked as lost.
    """
    connection = context.connection
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True
    elif context.statement is None and connection is not None and not context.is_disconnect:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False  # the others are not affected
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info[_HAS_FAILED] = True


def _on_checkin(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    """Close a connection on which something failed; the pool replaces it at its next use."""
    if record.info.pop(_HAS_FAILED, False) and connection is not None:
        cast(Any, connection).driver_connection.terminate()


def guard_of(connection: PoolProxiedConnection) -> ConnectionGuard:
    """Return the guard of the connection's pool."""
    guard: ConnectionGuard = connection.info[_WATCH]
    return guard
