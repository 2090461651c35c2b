"""``iris-api migrate``."""

from iris_api.cli.console import Console, begin
from iris_api.database import migrations
from iris_api.embedded.postgres import provide_database
from iris_api.settings import Settings


def migrate() -> None:
    """Upgrade the schema of the settings' database to this release's revision."""
    settings, console = begin()
    with provide_database(settings, report=console.info) as with_database:
        migrate_database(with_database, console)


def migrate_database(settings: Settings, console: Console) -> None:
    """Upgrade the schema of a database that runs already, and print the revision."""
    revision = migrations.migrate(settings, report=console.info)
    console.info(
        f"The schema is at revision {revision}", event="schema_migrated", revision=revision
    )
