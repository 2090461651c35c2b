"""What a command tells while it works: lines for a person, or log events, as the format asks."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iris_api.database.failures import as_told_to_operators
from iris_api.errors import IrisApiError, Problem
from iris_api.iris import EXAMPLE
from iris_api.observability.logging import configure_logging, wants_console
from iris_api.settings import Settings, environment_warnings, load_settings


class Narrator:
    """Speaks to a person on standard output; else in the log, which goes to standard error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console = Console(highlight=False, soft_wrap=True)
        self.is_to_person = wants_console(settings, sys.stdout)
        self.log = structlog.get_logger("iris_api")

    def tell(self, message: str) -> None:
        """Say what has just happened."""
        if self.is_to_person:
            self.console.print(f"[green]•[/green] {escape(message)}")
        else:
            self.log.info(message)

    def warn(self, message: str) -> None:
        """Say what is to be kept in mind."""
        if self.is_to_person:
            self.console.print(f"[yellow]![/yellow] {escape(message)}")
        else:
            self.log.warning(message)

    def tabulate(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show rows beneath their titles."""
        table = Table(*titles, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table)

    def greet(self, url: str, *, ready: bool, body: dict[str, Any]) -> None:
        """Say where the service answers and how to try it, or why it is not ready."""
        if not ready:
            self.tell(f"{url} is alive, but not ready: {body['detail']}")
            return
        settings = self.settings
        if not self.is_to_person:
            self.log.info("ready", url=url)
            return
        if settings.database_url is None:
            database, stopped = str(settings.data_dir / "postgres"), "all of it"
        else:
            database, stopped = "PostgreSQL at IRIS_DATABASE_URL", "the service, not the database"
        first, header = "", ""
        if settings.auth == "keys":
            first = "  KEY=$(iris-api keys create --client me)\n"
            header = ' -H "Authorization: Bearer $KEY"'
        request = f"-H 'Content-Type: application/json' -d '{json.dumps(EXAMPLE.model_dump())}'"
        self.console.print(
            f"""
[bold]Ready on {url}[/bold]   (its documentation: {url}/docs)

Try it:
{first}  curl {url}/predict{header} {request}
  curl {url}/predictions{header}

The predictions are in {database}, the model in {settings.model_dir}. Ctrl-C stops {stopped}.
"""
        )


def print_error(error: IrisApiError) -> None:
    """Say on standard error what a command failed of, and what to do about it."""
    message = as_told_to_operators(error) if isinstance(error, Problem) else str(error)
    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(message)}")


def begin() -> tuple[Settings, Narrator]:
    """Do what every command does first."""
    settings = load_settings()
    configure_logging(settings)
    narrator = Narrator(settings)
    for sentence in environment_warnings():
        narrator.log.warning(sentence)
    return settings, narrator
