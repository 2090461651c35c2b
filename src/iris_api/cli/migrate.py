"""``iris-api migrate``."""

from iris_api.cli.console import Narrator, begin
from iris_api.database import migrations
from iris_api.embedded.postgres import database_of
from iris_api.settings import Settings


def migrate() -> None:
    """Bring the schema of the settings' database to this release's revision."""
    settings, narrator = begin()
    with database_of(settings, report=narrator.tell) as with_database:
        migrate_database(with_database, narrator)


def migrate_database(settings: Settings, narrator: Narrator) -> None:
    """The same, of a database that is there, and tell the revision."""
    revision = migrations.migrate(settings, report=narrator.tell)
    narrator.tell(f"The schema is at revision {revision}")
