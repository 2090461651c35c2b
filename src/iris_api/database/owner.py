"""The role that owns the tables, which changes the schema. The service may have a lesser one."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.advice import operator_message
from iris_api.database.failures import problem_of
from iris_api.database.session import create_migration_engine, create_session_factory
from iris_api.errors import ConfigurationError, Problem
from iris_api.settings import Settings


@contextmanager
def as_owner(settings: Settings) -> Iterator[Settings]:
    """Yield settings whose ``database_url`` is the owner's, which leads to PostgreSQL directly.

    Where IRIS_MIGRATION_DATABASE_URL is not set, they are the service's own. Where it is, failures
    within the block are a `ConfigurationError` that names it.
    """
    if settings.migration_database_url is None:
        yield settings
        return
    changes = {
        "database_url": settings.migration_database_url,
        "database_pgbouncer": False,
        "migration_database_url": None,
    }
    try:
        yield settings.model_copy(update=changes)
    except (ConfigurationError, Problem, OSError, DBAPIError) as error:
        message = _message_of(error)
        if message is None:
            raise
        message = message.replace("IRIS_DATABASE_URL", "IRIS_MIGRATION_DATABASE_URL")
        raise ConfigurationError(message) from error


def _message_of(error: Exception) -> str | None:
    """Return what to tell the operator of a failure; None of a defect."""
    if isinstance(error, ConfigurationError):
        return str(error)
    problem = problem_of(error)
    return None if problem is None else operator_message(problem)


@asynccontextmanager
async def owner_session(settings: Settings) -> AsyncIterator[AsyncSession]:
    """Yield a session whose statements have no timeout, on a connection of its own."""
    with as_owner(settings) as owner:
        engine = create_migration_engine(owner)
        try:
            async with create_session_factory(engine)() as session:
                yield session
        finally:
            await engine.dispose()
