"""Connects Alembic to the database, for ``alembic ...`` and for ``iris-api migrate``.

All revisions of one run share a transaction, so a failure leaves the schema unchanged.
"""

from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from iris_api import signals
from iris_api.database import Base
from iris_api.database.advice import operator_message
from iris_api.database.failures import problem_of
from iris_api.database.session import create_migration_engine
from iris_api.database.url import database_url
from iris_api.embedded.postgres import provide_database
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings, load_settings

_LOCK = 0x1215_0A91
"""The advisory lock of processes that migrate this schema; any fixed number would do."""


def run_offline(settings: Settings) -> None:
    """Print the SQL instead of running it, for ``alembic upgrade --sql``."""
    context.configure(
        url=database_url(settings).url.render_as_string(hide_password=False),
        target_metadata=Base.metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online(settings: Settings) -> None:
    """Run the revisions, one process at a time."""
    engine = create_migration_engine(settings)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate, settings)
    await engine.dispose()


def _migrate(connection: Connection, settings: Settings) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, compare_server_default=True
    )
    with context.begin_transaction():
        # The lock ends with the transaction, so also if this process is killed.
        milliseconds = round(settings.migration_timeout * 1000)
        connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        context.run_migrations()


def main() -> None:
    """Use the caller's settings, or the environment's for Alembic's own command."""
    settings = context.config.attributes.get("settings")
    if settings is not None:
        run(settings)
        return
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    try:
        run(load_settings())
    except ConfigurationError as error:
        raise CommandError(str(error)) from None  # Alembic shows it as one line
    except (OSError, DBAPIError) as error:
        problem = problem_of(error)
        if problem is None:
            raise
        raise CommandError(operator_message(problem)) from None


def run(settings: Settings) -> None:
    """Run Alembic's command on the settings' database."""
    with provide_database(settings) as with_database:
        if context.is_offline_mode():
            run_offline(with_database)
        else:
            signals.run(run_online(with_database))


main()
