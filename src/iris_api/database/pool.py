"""The pool's connections: what each one's server is looked at for, and when none is trusted."""

import math
import time
from typing import Any, TypeAlias, cast

import asyncpg
import structlog
from sqlalchemy import Pool, PoolProxiedConnection, event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
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
"""In a connection's ``info``."""
_SERVER = """
    SELECT current_setting('transaction_read_only') = 'on', ARRAY(
        SELECT name
        FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) AS name
        WHERE current_setting(name) = 'off')
"""
log = structlog.get_logger("iris_api")


class PoolWatch:
    """Keeps an engine's pool from handing out a connection that would not do.

    Each connection's server is looked at when it is made, for after a failover it is another one,
    and again whenever somebody asks whether the service is ready.
    """

    def __init__(self, settings: Settings) -> None:
        self.explicit_transactions = settings.database_pgbouncer
        """PgBouncer may send the parts of a statement that stands alone to different servers."""
        self.seconds = settings.database_command_timeout + NETWORK_SECONDS
        """How long the driver waits for a statement."""
        self._allow_unsafe = settings.allow_unsafe_database
        self._distrusted_at = -math.inf

    def attach(self, pool: Pool) -> None:
        """Watch this pool from now on."""
        event.listen(pool, "connect", self._on_connect)
        event.listen(pool, "checkout", self._on_checkout)

    def distrust(self) -> None:
        """Have each connection that is open now replaced before its next use.

        Where one was lost, the others may be as dead without anybody having been told.
        """
        self._distrusted_at = time.monotonic()

    async def look(self, driver: Driver) -> list[str]:
        """Look at the server; return which of its settings are unsafe, where that is allowed.

        Raises `DatabaseUnavailable` where it takes no writes, `DatabaseUnsafe` where it may lose
        what it has confirmed; then all connections are distrusted.
        """
        server = await driver.fetchrow(_SERVER)
        assert server is not None, "without FROM, it is one row"  # noqa: S101
        is_read_only, off = server
        if is_read_only:
            self.distrust()
            raise DatabaseUnavailable(
                "PostgreSQL takes no writes: it is a standby, or default_transaction_read_only is "
                "on. Nothing was stored. Try again soon."
            )
        if off and not self._allow_unsafe:
            self.distrust()
            raise DatabaseUnsafe(
                f"PostgreSQL runs with {', '.join(off)} off, so it may lose what it has confirmed. "
                "Turn them on, or set IRIS_ALLOW_UNSAFE_DATABASE=true."
            )
        return list(off)

    def _on_connect(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        record.info[_WATCH] = self
        record.info[_MADE_AT] = time.monotonic()
        record.info[_IS_NEW] = True

        async def look(driver: Driver) -> list[str]:
            async with driver.transaction():  # for PgBouncer
                return await self.look(driver)

        off = cast(AsyncAdapt_asyncpg_connection, connection).run_async(look)
        if off:
            log.warning("the database may lose what it has confirmed", off=off)

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


def watch_of(connection: PoolProxiedConnection) -> PoolWatch:
    """The watch of the pool that the connection belongs to."""
    watch: PoolWatch = connection.info[_WATCH]
    return watch
