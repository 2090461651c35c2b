"""The output of commands: lines on a terminal, log events elsewhere."""

import os
import sys
from collections.abc import Iterable, Sequence

import structlog
import typer

from iris_api.errors import ConfigurationError, IrisApiError, Problem
from iris_api.observability.console_log import wrapped
from iris_api.observability.logging import configure_logging, wants_console
from iris_api.settings import Settings, environment_warnings, given_settings, load_settings


class Console:
    """Prints to standard output if that is a terminal; else logs to standard error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_terminal = wants_console(settings, sys.stdout)
        self.log = structlog.get_logger("iris_api")

    def info(self, message: str, *, event: str = "progress", **values: object) -> None:
        """Print what has just happened, or log it as this event with these values."""
        if self.is_terminal:
            print_item(message, typer.colors.GREEN)
        else:
            self.log.info(event, message=" ".join(message.split()), **values)

    def warn(self, message: str, *, event: str) -> None:
        """Print a warning for the operator, or log it as this event."""
        if self.is_terminal:
            print_item(message, typer.colors.YELLOW)
        else:
            self.log.warning(event, message=message)


def print_item(message: str, colour: str) -> None:
    """Print a message of any length after a coloured bullet."""
    bullet = "•" if _is_unicode() else "*"
    lines = wrapped(f"{bullet} {message}", sys.stdout, indent="  ")
    typer.echo(styled(bullet, fg=colour) + lines[1:])


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below column titles: in columns, or separated by tabs where it is no terminal.

    Never cuts a value: rows that are wider than the terminal are printed one value a line.
    """
    lines = [titles, *rows]
    if not sys.stdout.isatty():
        for row in lines:
            typer.echo("\t".join(row))
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= os.get_terminal_size(sys.stdout.fileno()).columns:
        for row in lines:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            typer.echo("  ".join(cells).rstrip())
        return
    width = max(map(len, titles))
    for row in lines[1:]:
        for title, cell in zip(titles, row, strict=True):
            typer.echo(f"{title.ljust(width)}  {cell}")
        typer.echo()


def print_error(error: IrisApiError) -> None:
    """Print to standard error why a command failed, and what to do; as JSON if IRIS_LOG_FORMAT is.

    ``auto`` prints text: a person has called the command, or reads what became of it.
    """
    message = str(error)
    if isinstance(error, Problem):
        from iris_api.database.advice import operator_message  # noqa: PLC0415, needs SQLAlchemy

        message = operator_message(error)
    if _wants_json():
        configure_logging(Settings.model_construct(log_format="json"))
        structlog.get_logger("iris_api").error("command_failed", message=message)
    else:
        lines = wrapped(f"error: {message}", sys.stderr)
        typer.echo(styled("error:", fg=typer.colors.RED) + lines.removeprefix("error:"), err=True)


def begin() -> tuple[Settings, Console]:
    """Load the settings, configure logging, and log warnings about the environment."""
    settings = load_settings()
    configure_logging(settings)
    console = Console(settings)
    for sentence in environment_warnings():
        console.log.warning("settings_warning", message=sentence)
    return settings, console


def styled(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
    """The text for `typer.echo`, which drops the style where it writes to no terminal."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=fg, bold=bold)


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _wants_json() -> bool:
    """Whether the settings ask for JSON; others of them may be invalid or unreadable."""
    try:
        given = given_settings().get("log_format")
    except ConfigurationError:
        return os.environ.get("IRIS_LOG_FORMAT") == "json"
    return given is not None and given.value == "json"
