"""The engine, the session factory and the declarative base. Nothing is built at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase

from iris_api.database.pool import NETWORK_SECONDS, ConnectionGuard
from iris_api.database.url import database_url
from iris_api.errors import DatabaseUnavailable
from iris_api.settings import Settings

SessionFactory = async_sessionmaker[AsyncSession]
_CONNECTION_SECONDS = 600
"""The age at which a connection is replaced: none outlives a change at its server for long."""
ISOLATION_LEVEL = "READ COMMITTED"
"""Of all transactions, whatever the database's default: above it, equal keys at once fail."""


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
    """An engine whose every wait has a bound. Connects at first use; dispose of it when done."""
    engine = create_async_engine(
        database_url(settings),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout,
        pool_use_lifo=True,
        pool_recycle=_CONNECTION_SECONDS,
        isolation_level=ISOLATION_LEVEL,
        hide_parameters=True,  # a user's input belongs neither in a log nor in an error
        connect_args=_connect_args(settings),
    )
    ConnectionGuard(settings, Base.metadata.tables).attach(engine.sync_engine)
    return engine


def _connect_args(settings: Settings) -> dict[str, Any]:
    """What asyncpg is told.

    The server's own bound on a statement is the tighter one: an error of PostgreSQL's says that
    nothing was stored, where silence leaves that open.
    """
    arguments: dict[str, Any] = {
        "timeout": settings.database_connect_timeout,
        "command_timeout": settings.database_command_timeout + NETWORK_SECONDS,
        "server_settings": _server_settings(settings),
    }
    return arguments | prepared_statement_args(settings)


def prepared_statement_args(settings: Settings) -> dict[str, Any]:
    """What asyncpg is told for PgBouncer, whose next server has prepared nothing."""
    if not settings.database_pgbouncer:
        return {}
    return {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"iris_{uuid4().hex}",
    }


def _server_settings(settings: Settings) -> dict[str, str]:
    """The server's own bounds, for when this process is gone or stuck and cannot keep its own.

    PgBouncer refuses all but the first two; docs/pgbouncer.md says how the role brings the others.
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
        # For a client that vanished in the middle of COPY, which no other bound ends.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


class _Session(AsyncSession):
    """A session that ends without an error where its connection was lost.

    Nothing is at stake by then: PostgreSQL rolls back what it was not told to commit, and the pool
    gives the connection up. The error would come in place of an answer, or of an earlier error.
    """

    async def close(self) -> None:
        """Roll back what is not committed, and give the connection back."""
        with suppress(OSError, DBAPIError):
            await super().close()


def create_session_factory(engine: AsyncEngine) -> SessionFactory:
    """Sessions whose rows stay readable after the commit, without another query."""
    return async_sessionmaker(engine, class_=_Session, expire_on_commit=False)


@asynccontextmanager
async def session_scope(settings: Settings) -> AsyncIterator[AsyncSession]:
    """A session on an engine of its own, for a command that ends soon."""
    engine = create_engine(settings)
    try:
        async with create_session_factory(engine)() as session:
            yield session
    finally:
        await engine.dispose()


async def require_durable(settings: Settings) -> None:
    """Raise `DatabaseUnsafe` where PostgreSQL answers, and would lose what it has confirmed.

    Where it does not answer, or takes no writes yet, the service starts, and is not ready.
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
