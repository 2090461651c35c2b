"""The engine, the session factory and the declarative base. Nothing is built at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy import Dialect, MetaData, NullPool, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase

from iris_api.database.driver_errors import note_address
from iris_api.database.pool import NETWORK_SECONDS, ConnectionGuard
from iris_api.database.url import database_url
from iris_api.errors import DatabaseUnavailable
from iris_api.settings import Settings

SessionFactory = async_sessionmaker[AsyncSession]
_CONNECTION_SECONDS = 600
"""The age at which a connection is replaced, so that changes at its server reach it soon."""
ISOLATION_LEVEL = "READ COMMITTED"
"""Of all transactions, whatever the database's default: above it, concurrent equal keys fail."""


class Base(DeclarativeBase):
    """The base of all tables. Each constraint gets a name, so that a migration can address it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def create_engine(settings: Settings) -> AsyncEngine:
    """Return an engine whose every wait has a timeout. It connects at first use; dispose of it.

    The server's statement timeout is shorter than the driver's: an error of PostgreSQL's says that
    nothing was stored, silence leaves that open.
    """
    engine = _create_engine(
        settings,
        {
            "command_timeout": settings.database_command_timeout + NETWORK_SECONDS,
            "server_settings": _server_settings(settings),
        },
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout,
        pool_use_lifo=True,
        pool_recycle=_CONNECTION_SECONDS,
    )
    ConnectionGuard(settings, Base.metadata.tables).attach(engine.sync_engine)
    return engine


def create_migration_engine(settings: Settings) -> AsyncEngine:
    """Return an engine for Alembic: statements have no timeout, and connections no pool.

    The role may have timeouts, for PgBouncer's sake; a direct connection overrides them.
    """
    timeouts = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    none = {} if settings.database_pgbouncer else dict.fromkeys(timeouts, "0")
    return _create_engine(settings, {"server_settings": none}, poolclass=NullPool)


def _create_engine(settings: Settings, arguments: dict[str, Any], **options: Any) -> AsyncEngine:
    """Return an engine with these arguments of asyncpg, in addition to those of the URL."""
    to = database_url(settings)
    server_settings = {**arguments["server_settings"], **to.server_settings}
    engine = create_async_engine(
        to.url,
        isolation_level=ISOLATION_LEVEL,
        hide_parameters=True,  # a user's input belongs neither in a log nor in an error
        connect_args={
            **to.arguments,
            **arguments,
            **_prepared_statement_args(settings),
            "server_settings": server_settings,
        },
        **options,
    )
    _note_address(engine, to.address)
    return engine


def _note_address(engine: AsyncEngine, address: str) -> None:
    """Make each failure to connect carry the address, for `address_of`."""

    def connect(
        dialect: Dialect, _record: object, args: tuple[Any, ...], arguments: dict[str, Any]
    ) -> DBAPIConnection:
        try:
            return dialect.connect(*args, **arguments)
        except OSError as error:
            note_address(error, address)
            raise

    event.listen(engine.sync_engine, "do_connect", connect)


def _prepared_statement_args(settings: Settings) -> dict[str, Any]:
    """Return asyncpg's arguments for PgBouncer, whose next server has prepared nothing."""
    if not settings.database_pgbouncer:
        return {}
    return {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"iris_{uuid4().hex}",
    }


def _server_settings(settings: Settings) -> dict[str, str]:
    """Return the server's timeouts, for when this process is gone or stuck.

    PgBouncer refuses all but the first two settings; docs/pgbouncer.md sets the others by role.
    """
    tracked = {"application_name": "iris-api", "TimeZone": "UTC"}
    if settings.database_pgbouncer:
        return tracked
    return {
        **tracked,
        "default_transaction_isolation": ISOLATION_LEVEL.lower(),
        "statement_timeout": _milliseconds(settings.database_command_timeout),
        "lock_timeout": _milliseconds(settings.database_lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.database_command_timeout),
        "client_connection_check_interval": "1000",
        # For a client that vanished in the middle of COPY: no other timeout ends it.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


class _Session(AsyncSession):
    """A session that closes without an error where its connection was lost.

    Nothing is lost by that: PostgreSQL rolls back what was not committed, and the pool drops the
    connection. The error would replace a response, or an earlier error.
    """

    async def close(self) -> None:
        """Roll back what is not committed, and return the connection."""
        with suppress(OSError, DBAPIError):
            await super().close()


def create_session_factory(engine: AsyncEngine) -> SessionFactory:
    """Return a factory of sessions whose rows stay readable after the commit, without a query."""
    return async_sessionmaker(engine, class_=_Session, expire_on_commit=False)


@asynccontextmanager
async def session_scope(settings: Settings) -> AsyncIterator[AsyncSession]:
    """Yield a session on an engine of its own, for a short command."""
    engine = create_engine(settings)
    try:
        async with create_session_factory(engine)() as session:
            yield session
    finally:
        await engine.dispose()


async def require_durable(settings: Settings) -> None:
    """Raise `DatabaseUnsafe` if PostgreSQL responds and may lose what it has confirmed.

    If it does not respond, or accepts no writes yet, the service starts, and is not ready.
    """
    with suppress(
        OSError,
        SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        DatabaseUnavailable,
    ):
        async with session_scope(settings) as session:
            await session.connection()
