"""The command line: ``iris-api serve | migrate | train``."""

import json
import signal
import socket
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from iris_api import __version__, server
from iris_api.database.embedded import database_of
from iris_api.database.migrations import migrate as migrate_schema
from iris_api.errors import ConfigurationError
from iris_api.inference.artifact import MANIFEST_NAME, Manifest, Scores
from iris_api.inference.training import CANDIDATES
from iris_api.inference.training import train as train_model
from iris_api.observability.logging import configure_logging
from iris_api.settings import Settings, load_settings

app = typer.Typer(
    name="iris-api",
    help="Predictions over HTTP, each committed to PostgreSQL before it is answered. "
    "Settings come from the environment; README.md lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_EXAMPLE = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; a failure that the user can mend ends in one sentence, not a trace."""
    try:
        app()
    except ConfigurationError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def version(
    *, show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False
) -> None:
    """Answer ``--version``."""
    if show:
        console.print(f"iris-api {__version__}")
        raise typer.Exit


@app.command()
def serve(
    *,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="First migrate the schema, and train a model where there is none. "
            "Implied where the database is the embedded one.",
        ),
    ] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    _end_on_signals()
    settings = load_settings()
    configure_logging(settings)
    listener = server.listen(settings)
    with listener, database_of(settings, exclusive=True, report=_tell) as with_database:
        if prepare or settings.database_url is None:
            _prepare(with_database)
        if settings.log_format != "json":
            server.call_when_answering(
                listener, lambda ready, body: _greet(settings, listener, ready=ready, body=body)
            )
        server.run(with_database, listener)


@app.command()
def migrate() -> None:
    """Bring the database's schema to this release's revision."""
    _end_on_signals()
    settings = load_settings()
    configure_logging(settings)
    with database_of(settings, report=_tell) as with_database:
        _tell(f"The schema is at revision {migrate_schema(with_database)}")


@app.command()
def train(
    *,
    candidate: Annotated[
        str | None,
        typer.Option(help=f"Take this one without comparing: {', '.join(CANDIDATES)}."),
    ] = None,
) -> None:
    """Choose a classifier by cross-validation, fit it, and make it the model."""
    if candidate is not None and candidate not in CANDIDATES:
        raise typer.BadParameter(
            f"There is no such candidate; take one of {', '.join(CANDIDATES)}."
        )
    _train(load_settings(), candidate)


def _prepare(settings: Settings) -> None:
    _tell(f"The schema is at revision {migrate_schema(settings)}")
    if settings.model_sha256 is None and not (settings.model_dir / MANIFEST_NAME).exists():
        _tell("Training a model: comparing candidates by cross-validation")
        _train(settings, None)


def _train(settings: Settings, candidate: str | None) -> Manifest:
    try:
        manifest = train_model(settings.model_dir, candidate=candidate, report=_tell_scores)
    except OSError as error:
        raise ConfigurationError(
            f"The model could not be written to {settings.model_dir}: {error.strerror}. "
            "Set IRIS_DATA_DIR to a folder that can be written."
        ) from None
    _tell(f"The model is {manifest.version}, in {settings.model_dir.resolve()}")
    return manifest


def _tell(message: str) -> None:
    console.print(f"[green]•[/green] {escape(message)}")


def _tell_scores(name: str, scores: Scores) -> None:
    console.print(f"    {name:<32} accuracy {scores.accuracy:.3f}  log loss {scores.log_loss:.4f}")


def _greet(
    settings: Settings, listener: socket.socket, *, ready: bool, body: dict[str, Any]
) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not ready:
        console.print(f"[yellow]•[/yellow] {url} is alive, but not ready: {escape(body['detail'])}")
        return
    database = "IRIS_DATABASE_URL" if settings.database_url else settings.data_dir / "postgres"
    console.print(
        f"""
[bold]Ready on {url}[/bold]   (its documentation: {url}/docs)

Try it:
  curl {url}/predict -H 'Content-Type: application/json' -d '{json.dumps(_EXAMPLE)}'
  curl {url}/predictions

The predictions are in {database}, the model in {settings.model_dir}. Ctrl-C stops all of it.
"""
    )


def _end_on_signals() -> None:
    """Let SIGINT and SIGTERM unwind the stack, so that what was started is stopped, and exit 0."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
