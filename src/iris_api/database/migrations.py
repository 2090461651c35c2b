"""The schema's revision: the database's, the one this release needs, and the migration to it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api import signals
from iris_api.database.advice import advice_on, operator_message
from iris_api.database.causes import describe_cause
from iris_api.database.failures import MIGRATE_HINT, problem_of, translates_failures
from iris_api.database.health import ping
from iris_api.database.models import IrisPrediction
from iris_api.database.owner import as_owner, owner_session
from iris_api.database.partitions import MONTHS_AHEAD, add_months, find_coverage, why_not_owner
from iris_api.database.session import create_engine, create_session_factory
from iris_api.database.url import database_url
from iris_api.errors import ConfigurationError, DatabaseUnavailable, Problem, SchemaOutdated
from iris_api.settings import Settings

_PACKAGED = Path(__file__).parents[1] / "migrations"
_IN_CHECKOUT = Path(__file__).parents[3] / "migrations"
_SECONDS_FOR_A_NAME = 5.0
"""How long `migrate` waits for a host's name, or a socket's folder, to come into being.

Mostly the name is misspelt, and no wait would help. But Docker does not know the name of a
container that compose is just starting, nor Kubernetes that of a pod that is not ready; what these
start again after an error waits for longer by that.
"""


def _ignore(*_values: object) -> None:
    """Report nothing."""


def alembic_config(
    settings: Settings | None = None, report_moved: Callable[[str, int, int], None] = _ignore
) -> Config:
    """Return Alembic's configuration for this release's revisions, in the wheel or a checkout.

    A revision that moves rows reports what they are, how many are done, and of how many.
    """
    config = Config()
    folder = _PACKAGED if _PACKAGED.is_dir() else _IN_CHECKOUT
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["settings"] = settings
    config.attributes["report_moved"] = report_moved
    return config


def head_revision() -> str:
    """Return the revision that this release needs. Reads the revisions' files."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None, "a release has at least one revision"  # noqa: S101
    return head


def known_revisions() -> frozenset[str]:
    """Return all revisions of this release."""
    scripts = ScriptDirectory.from_config(alembic_config())
    return frozenset(script.revision for script in scripts.walk_revisions())


@translates_failures
async def current_revision(session: AsyncSession) -> str | None:
    """Return the database's revision; None if it has no schema.

    Raises `SchemaOutdated` if the revision is another application's: ``alembic_version`` is the
    usual table name, and other applications may even use the same revision names.
    """
    connection = await session.connection()
    heads = await connection.run_sync(
        lambda sync: MigrationContext.configure(sync).get_current_heads()
    )
    if not heads:
        return None
    current = ", ".join(heads)
    table = await session.scalar(select(func.to_regclass(IrisPrediction.__tablename__)))
    if table is None:
        raise SchemaOutdated(
            f"alembic_version is at {current}, but there is no table iris_predictions: another "
            "application keeps its revision there, or the table was dropped. Give this service a "
            "database or a schema of its own."
        )
    return current


class SchemaCheck:
    """Compares the database's revision with the release's, which is read from the files once."""

    def __init__(self) -> None:
        self.head = head_revision()
        self._known = known_revisions()

    async def __call__(self, session: AsyncSession) -> str:
        """Return the database's revision.

        Raises `SchemaOutdated` where it is older or missing. An unknown revision is newer and
        passes: in a rolling update, replicas of the old release meet it.
        """
        current = await current_revision(session)
        if current is None:
            raise SchemaOutdated(f"The database has no schema. {MIGRATE_HINT}")
        if current != self.head and current in self._known:
            raise SchemaOutdated(
                f"The schema is at {current}, this release needs {self.head}. {MIGRATE_HINT}"
            )
        return current


def migrate(
    settings: Settings,
    *,
    report: Callable[[str], None] = _ignore,
    report_moved: Callable[[str, int, int], None] = _ignore,
) -> str:
    """Migrate the schema to this release's revision and return it; do not change a newer one.

    Then make the months ahead, so that running it again makes more. Waits for PostgreSQL, and for
    another process that migrates, at most ``settings.migration_timeout`` seconds each. Reports the
    wait for PostgreSQL. Does not wait if an operator has to change something first, and only
    `_SECONDS_FOR_A_NAME` if the host's name is unknown. Raises `ConfigurationError`.
    """
    with as_owner(settings) as owner:
        return _migrate(owner, report, report_moved)


def _migrate(
    settings: Settings,
    report: Callable[[str], None],
    report_moved: Callable[[str, int, int], None],
) -> str:
    current = signals.run(_wait_for_revision(settings, report))
    if current is not None and current not in known_revisions():
        report(f"A newer release has migrated to {current} already; this one serves on that, too")
        return current
    try:
        command.upgrade(alembic_config(settings, report_moved), "head")
        signals.run(_add_months(settings, report))
    except CommandError as error:
        raise ConfigurationError(
            f"The database is not one that this release can migrate: {error}. "
            "Use a newer release, or another database."
        ) from error
    except (OSError, DBAPIError, Problem) as error:
        raise ConfigurationError(
            "The migration did not finish. What it has committed stays, and another run goes on "
            f"from there. {_reason_of(error)}"
        ) from error
    return head_revision()


async def _add_months(settings: Settings, report: Callable[[str], None]) -> None:
    async with owner_session(settings) as session:
        why_not = await why_not_owner(session)
        if why_not is None:
            await add_months(session)
        elif (await find_coverage(session)).months_ahead < MONTHS_AHEAD:
            report(f"No months were added. {why_not}")


def _reason_of(error: OSError | DBAPIError | Problem) -> str:
    """Return why a migration failed, and what to do."""
    problem = problem_of(error)
    if problem is not None:
        return (
            f"{operator_message(problem)} If another process is migrating, wait for it and run "
            "`iris-api migrate` again."
        )
    cause = describe_cause(error)
    return (
        f"PostgreSQL refused (SQLSTATE {cause.get('sqlstate', 'none')}): "
        f"{cause.get('message', cause['error'])}. Give this service a database or a schema of its "
        "own, or take what is in the way out of this one."
    )


async def _wait_for_revision(settings: Settings, report: Callable[[str], None]) -> str | None:
    patience = _Patience(settings, report)
    engine = create_engine(settings)
    try:
        while True:
            try:
                async with create_session_factory(engine)() as session:
                    await ping(session)
                    return await current_revision(session)
            except SchemaOutdated as problem:
                raise ConfigurationError(problem.detail) from problem
            except DatabaseUnavailable as problem:
                patience.spend_on(problem)
            await asyncio.sleep(0.2)
    finally:
        await engine.dispose()


class _Patience:
    """How long `migrate` still waits for PostgreSQL."""

    def __init__(self, settings: Settings, report: Callable[[str], None]) -> None:
        self._to = database_url(settings)
        self._timeout = settings.migration_timeout
        self._began_at = time.monotonic()
        self._nowhere_since: float | None = None
        self._report: Callable[[str], None] | None = report

    def spend_on(self, problem: DatabaseUnavailable) -> None:
        """Return if it is worth trying again; else raise `ConfigurationError`."""
        reason = operator_message(problem)
        if advice_on(problem.__cause__) is not None:
            raise ConfigurationError(reason) from problem
        now = time.monotonic()
        began_at, timeout = self._began_at, self._timeout
        if self._to.leads_nowhere(problem.__cause__):
            began_at = self._nowhere_since = self._nowhere_since or now
            timeout = min(timeout, _SECONDS_FOR_A_NAME)
        else:
            self._nowhere_since = None
        if self._report is not None:
            self._report(f"Waiting up to {timeout:g} s: {reason}")
            self._report = None
        if now > began_at + timeout:
            raise ConfigurationError(f"{reason} Waited {timeout:g} s.") from problem
