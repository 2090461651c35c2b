"""The output of commands: lines on a terminal, log events elsewhere."""

import json
import sys
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from iris_api.database.advice import operator_message
from iris_api.errors import IrisApiError, Problem
from iris_api.iris import EXAMPLE
from iris_api.observability.logging import configure_logging, wants_console
from iris_api.settings import Settings, environment_warnings, load_settings


class Console:
    """Prints to standard output if that is a terminal; else logs to standard error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rich = RichConsole(highlight=False, soft_wrap=True)
        self.is_terminal = wants_console(settings, sys.stdout)
        self.log = structlog.get_logger("iris_api")

    def info(self, message: str, *, event: str = "progress", **values: object) -> None:
        """Print what has just happened, or log it as this event with these values."""
        if self.is_terminal:
            self._rich.print(f"[green]•[/green] {escape(message)}")
        else:
            self.log.info(event, message=message.strip(), **values)

    def warn(self, message: str, *, event: str) -> None:
        """Print a warning for the operator, or log it as this event."""
        if self.is_terminal:
            self._rich.print(f"[yellow]![/yellow] {escape(message)}")
        else:
            self.log.warning(event, message=message)

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table: rows below column titles."""
        printed = Table(*titles, box=None, pad_edge=False)
        for row in rows:
            printed.add_row(*map(escape, row))
        self._rich.print(printed)

    def print_ready(self, url: str, status: int, body: dict[str, Any]) -> None:
        """Print the URL and a first request, or why the service is not ready."""
        if status != HTTPStatus.OK:
            detail = body["detail"]
            self.info(f"{url} is alive, but not ready: {detail}", event="not_ready", url=url)
            return
        settings = self.settings
        if not self.is_terminal:
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
        self._rich.print(
            f"""
[bold]Ready on {url}[/bold]   (its documentation: {url}/docs)

Try it:
{first}  curl {url}/predict{header} {request}
  curl {url}/predictions{header}

The predictions are in {database}, the model in {settings.model_dir}. Ctrl-C stops {stopped}.
"""
        )


def print_error(error: IrisApiError) -> None:
    """Print to standard error why a command failed, and what to do."""
    message = operator_message(error) if isinstance(error, Problem) else str(error)
    RichConsole(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(message)}")


def begin() -> tuple[Settings, Console]:
    """Load the settings, configure logging, and log warnings about the environment."""
    settings = load_settings()
    configure_logging(settings)
    console = Console(settings)
    for sentence in environment_warnings():
        console.log.warning("settings_warning", message=sentence)
    return settings, console
