"""Connects Alembic to the database, for ``alembic ...`` and for ``iris-api migrate``.

All revisions of one run share a transaction, so a failure leaves the schema unchanged. Only 0005
commits in between, where it moves many rows: another run goes on from there.
"""

from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import DBAPIError

from iris_api import signals
from iris_api.database import Base
from iris_api.database.advice import operator_message
from iris_api.database.failures import problem_of
from iris_api.database.models import TransactionId
from iris_api.database.owner import as_owner
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


ischema_names["xid8"] = TransactionId  # autogenerate reads types from it
_PARTITIONS = """
    SELECT relname FROM pg_class
    WHERE relispartition OR relname ~ '^iris_predictions_[0-9]{4}_[0-9]{2}$'
"""
"""Those that are detached, too."""


def _migrate(connection: Connection, settings: Settings) -> None:
    partitions: set[str] = set()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        include_name=lambda name, kind, _parents: kind != "table" or name not in partitions,
    )
    with context.begin_transaction():
        # The lock ends with the transaction, so also if this process is killed.
        milliseconds = round(settings.migration_timeout * 1000)
        connection.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        partitions.update(connection.scalars(text(_PARTITIONS)))
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
        with as_owner(load_settings()) as owner:
            run(owner)
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
