"""``iris-api migrate``."""

from types import TracebackType
from typing import Any, Self

import typer

from iris_api.cli.console import Console, begin
from iris_api.database import migrations
from iris_api.database.owner import as_owner
from iris_api.embedded.postgres import provide_database
from iris_api.settings import Settings


def migrate() -> None:
    """Upgrade the schema of the settings' database to this release's revision."""
    settings, console = begin()
    with (
        as_owner(settings) as owner,
        provide_database(owner, report=console.info) as with_database,
    ):
        migrate_database(with_database, console)


def migrate_database(settings: Settings, console: Console) -> None:
    """Upgrade the schema of a database that runs already, and print the revision."""
    with _MovedRows(console) as moved:
        revision = migrations.migrate(settings, report=console.info, report_moved=moved)
    console.info(
        f"The schema is at revision {revision}", event="schema_migrated", revision=revision
    )


class _MovedRows:
    """Shows how much of a long migration is done: a bar on a terminal, log events elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` rows are moved."""
        if not self._console.is_terminal:
            self._console.info(
                f"{done:,} of {total:,} {what} are moved",
                event="rows_moved",
                what=what,
                done=done,
                total=total,
            )
            return
        bar = self._bars.get(what)
        if bar is None:
            bar = self._bars[what] = typer.progressbar(length=total, label=f"Moving {what}")
            bar.render_progress()
        bar.update(done - bar.pos)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for bar in self._bars.values():
            bar.render_finish()
