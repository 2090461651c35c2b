"""The pool's connections: what each one's server is looked at for, and when none is trusted."""

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
"""What a statement's way to PostgreSQL and back may take on top of its own time."""
READ_ONLY = "25006"
"""The SQLSTATE of a server that takes no writes: read_only_sql_transaction."""
_WATCH, _MADE_AT, _IS_NEW = "iris_watch", "iris_made_at", "iris_is_new"
_HAS_FAILED = "iris_has_failed"
"""In a connection's ``info``."""
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
    """Keeps an engine's pool from handing out a connection that would not do.

    Each connection's server is looked at when it is made, for after a failover it is another one,
    and again whenever somebody asks whether the service is ready.
    """

    def __init__(self, settings: Settings, tables: Collection[str]) -> None:
        """``tables`` are those that have to outlive a crash of PostgreSQL's."""
        self.explicit_transactions = settings.database_pgbouncer
        """PgBouncer may send the parts of a statement that stands alone to different servers."""
        self.seconds = settings.database_command_timeout + NETWORK_SECONDS
        """How long the driver waits for a statement."""
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
        """Have each connection that is open now replaced before its next use.

        Where one was lost, the others may be as dead without anybody having been told.
        """
        self._distrusted_at = time.monotonic()

    async def check_server(self, driver: Driver) -> list[str]:
        """Look at the server; return what of it is unsafe, where that is allowed.

        Raises `DatabaseUnavailable` where it takes no writes, `DatabaseUnsafe` where it may lose
        what it has confirmed; then all connections are distrusted.
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
        """Have the pool replace a connection that is closed, or not trusted.

        As much as ``pool_pre_ping`` finds out after a restart, without its round trip, which in a
        black hole would have to be waited for.

        A new one is as good as any other would be, whatever was lost while it was made. The pool
        would try once more, and then fail with an error that does not say why.
        """
        driver: Driver = cast(Any, connection).driver_connection
        is_new = record.info.pop(_IS_NEW, False)
        if record.info[_MADE_AT] <= self._distrusted_at and not is_new:
            driver.terminate()
        if driver.is_closed() and is_new:
            raise DatabaseUnavailable("PostgreSQL broke off. Nothing was stored. Try again soon.")
        if driver.is_closed():
            raise DisconnectionError


def _on_error(context: ExceptionContext) -> None:
    """Note that a session's connection is not to be used again.

    After a BEGIN that failed, asyncpg goes on as if within a transaction; SQLAlchemy's own reset
    does not see that, nor can we, so whatever has failed on a connection is its end. After a COMMIT
    or a ROLLBACK that failed, which have no statement here, SQLAlchemy would not even give the
    connection back to the pool, if it were not taken for lost.
    """
    connection = context.connection
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True
    elif context.statement is None and connection is not None and not context.is_disconnect:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False  # the others are as they were
    if connection is not None and not connection.closed and not connection.invalidated:
        connection.info[_HAS_FAILED] = True


def _on_checkin(connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    """Close a connection on which something has failed; the pool replaces it at its next use."""
    if record.info.pop(_HAS_FAILED, False) and connection is not None:
        cast(Any, connection).driver_connection.terminate()


def guard_of(connection: PoolProxiedConnection) -> ConnectionGuard:
    """The watch of the pool that the connection belongs to."""
    watch: ConnectionGuard = connection.info[_WATCH]
    return watch
