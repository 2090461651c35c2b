"""The engine, the session factory and the declarative base. Nothing is built at import."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from uuid import uuid4

import asyncpg
import structlog
from sqlalchemy import URL, MetaData, event, make_url
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry

from iris_api.errors import ConfigurationError, DatabaseUnsafe
from iris_api.settings import Settings

log = structlog.get_logger("iris_api")

_URL_PARAMETERS = frozenset({"host", "port", "ssl", "prepared_statement_cache_size"})
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SessionFactory = async_sessionmaker[AsyncSession]
_NETWORK_SECONDS = 1.0
"""What a statement's way to PostgreSQL and back may take on top of its own time."""
EXPLICIT_TRANSACTIONS = "iris_explicit_transactions"
"""In the ``info`` of a connection to PgBouncer, which may send the parts of a statement that stands
outside of a transaction to different servers."""


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


def database_url(settings: Settings) -> URL:
    """The settings' URL, with asyncpg as its driver and libpq's ``sslmode`` in asyncpg's words.

    Raises `ConfigurationError` where none is set, or where it is not one of PostgreSQL.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not set. Set it to postgresql://user:password@host/database, "
            "or use `iris-api serve`, which brings an embedded PostgreSQL."
        )
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):  # a wrong port is a bare ValueError
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not a URL. It has the form postgresql://user:password@host/database."
        ) from None
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL names {url.drivername}. The service needs PostgreSQL: postgresql://"
        )
    if "sslmode" in url.query:
        url = url.update_query_dict({"ssl": url.query["sslmode"]})
        url = url.difference_update_query(["sslmode"])
    _check_parameters(url)
    return url.set(drivername="postgresql+asyncpg")


def _check_parameters(url: URL) -> None:
    """Find out here what asyncpg would find out at the first connection, in worse words."""
    if url.port is not None and not 0 < url.port < 2**16:
        raise ConfigurationError("IRIS_DATABASE_URL has a port that is not from 1 to 65535.")
    if unknown := sorted(set(url.query) - _URL_PARAMETERS):
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has parameters that asyncpg does not take: {', '.join(unknown)}. "
            f"Remove them; it takes {', '.join(sorted(_URL_PARAMETERS))} and sslmode."
        )
    if url.query.get("ssl", "prefer") not in _SSL_MODES:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has an sslmode that is none of {', '.join(_SSL_MODES)}."
        )


def create_engine(settings: Settings) -> AsyncEngine:
    """An engine whose every wait has a bound. Connects at first use; dispose of it when done."""
    engine = create_async_engine(
        database_url(settings),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=settings.database_pool_timeout,
        pool_use_lifo=True,
        hide_parameters=True,  # a user's input belongs neither in a log nor in an error
        connect_args=_connect_args(settings),
    )
    pool = engine.sync_engine.pool
    if settings.database_pgbouncer:
        event.listen(pool, "connect", _mark_as_pgbouncer)
    event.listen(pool, "connect", _durability_check(settings))
    event.listen(pool, "checkout", _refuse_closed)
    return engine


def _connect_args(settings: Settings) -> dict[str, Any]:
    """What asyncpg is told.

    The server's own bound on a statement is the tighter one: an error of PostgreSQL's says that
    nothing was stored, where silence leaves that open.
    """
    arguments: dict[str, Any] = {
        "timeout": settings.database_connect_timeout,
        "command_timeout": settings.database_command_timeout + _NETWORK_SECONDS,
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


_DURABILITY = """
    SELECT name FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) AS name
    WHERE current_setting(name) = 'off'
"""


def _durability_check(settings: Settings) -> Callable[[DBAPIConnection, object], None]:
    """A look at each new connection's server: after a failover, it is another one."""

    async def look(driver: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        async with driver.transaction():  # for PgBouncer, see EXPLICIT_TRANSACTIONS
            return [name for (name,) in await driver.fetch(_DURABILITY)]

    def check(connection: DBAPIConnection, _record: object) -> None:
        off = cast(AsyncAdapt_asyncpg_connection, connection).run_async(look)
        if not off:
            return
        if settings.allow_unsafe_database:
            log.warning("the database may lose what it has confirmed", off=off)
            return
        raise DatabaseUnsafe(
            f"PostgreSQL runs with {', '.join(off)} off, so it may lose what it has confirmed. "
            "Turn them on, or set IRIS_ALLOW_UNSAFE_DATABASE=true."
        )

    return check


def _mark_as_pgbouncer(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info[EXPLICIT_TRANSACTIONS] = True


def _refuse_closed(connection: DBAPIConnection, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that the server has closed meanwhile.

    As much as ``pool_pre_ping`` finds out after a restart, without its round trip.
    """
    if cast(AsyncAdapt_asyncpg_connection, connection).driver_connection.is_closed():
        raise DisconnectionError


def _server_settings(settings: Settings) -> dict[str, str]:
    """The server's own bounds, for when this process is gone or stuck and cannot keep its own.

    PgBouncer refuses all but the first two; README.md says how the role brings the others.
    """
    tracked = {"application_name": "iris-api", "TimeZone": "UTC"}
    if settings.database_pgbouncer:
        return tracked
    return {
        **tracked,
        "statement_timeout": _milliseconds(settings.database_command_timeout),
        "lock_timeout": _milliseconds(settings.database_lock_timeout),
        "idle_in_transaction_session_timeout": _milliseconds(settings.database_command_timeout),
        "client_connection_check_interval": "1000",
    }


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def create_session_factory(engine: AsyncEngine) -> SessionFactory:
    """Sessions whose rows stay readable after the commit, without another query."""
    return async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def one_session(settings: Settings) -> AsyncIterator[AsyncSession]:
    """A session on an engine of its own, for a command that ends soon."""
    engine = create_engine(settings)
    try:
        async with create_session_factory(engine)() as session:
            yield session
    finally:
        await engine.dispose()


async def refuse_unsafe(settings: Settings) -> None:
    """Raise `DatabaseUnsafe` where PostgreSQL answers, and would lose what it has confirmed.

    Where it does not answer, that is found out at the first connection instead.
    """
    with suppress(OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError):
        async with one_session(settings) as session:
            await session.connection()
