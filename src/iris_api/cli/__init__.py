"""The command line: ``iris-api serve | migrate | train | keys``."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from iris_api import __version__, signals
from iris_api.cli import keys
from iris_api.cli.console import Narrator, begin
from iris_api.database.failures import as_told_to_operators
from iris_api.database.migrations import migrate as migrate_schema
from iris_api.database.session import refuse_unsafe
from iris_api.embedded.postgres import database_of
from iris_api.errors import ConfigurationError, IrisApiError, Problem
from iris_api.inference.artifact import MANIFEST_NAME
from iris_api.inference.training import CANDIDATES
from iris_api.inference.training import train as train_model
from iris_api.server.listener import listen
from iris_api.server.run import call_when_answering, run
from iris_api.settings import Settings

app = typer.Typer(
    name="iris-api",
    help="Predictions over HTTP, each committed to PostgreSQL before it is answered. "
    "Settings come from the environment; README.md lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app)


def main() -> None:
    """Run the command line; a failure that the user can mend ends in one sentence, not a trace."""
    try:
        app()
    except IrisApiError as error:
        message = as_told_to_operators(error) if isinstance(error, Problem) else str(error)
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(message)}")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def version(
    *, show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False
) -> None:
    """Answer ``--version``."""
    if show:
        typer.echo(f"iris-api {__version__}")
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
    settings, narrator = begin()
    with (
        listen(settings) as listener,
        database_of(settings, exclusive=True, report=narrator.tell) as with_database,
    ):
        if prepare or settings.database_url is None:
            _migrate(with_database, narrator)
            _train_where_there_is_none(settings, narrator)
        signals.run(refuse_unsafe(with_database))
        if settings.database_url is not None:
            narrator.warn(
                "fsync, full_page_writes and synchronous_commit are looked at; what cannot be: "
                "whether the disk keeps what it confirms, and whether a standby has it before a "
                "failover (docs/promises.md)"
            )
        call_when_answering(listener, narrator.greet)
        run(with_database, listener)


@app.command()
def migrate() -> None:
    """Bring the database's schema to this release's revision."""
    settings, narrator = begin()
    with database_of(settings, report=narrator.tell) as with_database:
        _migrate(with_database, narrator)


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
            f"There is no such candidate. Take one of {', '.join(CANDIDATES)}."
        )
    settings, narrator = begin()
    _train(settings, narrator, candidate)
    narrator.tell("A service that runs already takes it when it is restarted")


def _migrate(settings: Settings, narrator: Narrator) -> None:
    revision = migrate_schema(settings, report=narrator.tell)
    narrator.tell(f"The schema is at revision {revision}")


def _train_where_there_is_none(settings: Settings, narrator: Narrator) -> None:
    """Train, unless there is a model, or one is pinned, which no training here could give."""
    if settings.model_sha256 is None and not (settings.model_dir / MANIFEST_NAME).exists():
        _train(settings, narrator, None)


def _train(settings: Settings, narrator: Narrator, candidate: str | None) -> None:
    narrator.tell("Training a model, scored by cross-validation:")
    try:
        manifest = train_model(settings.model_dir, candidate=candidate, report=narrator.tell_scores)
    except OSError as error:
        raise ConfigurationError(
            f"The model could not be written to {settings.model_dir}: {error.strerror}. "
            "Set IRIS_DATA_DIR to a folder that can be written."
        ) from None
    narrator.tell(f"The model is {manifest.version}, in {settings.model_dir.resolve()}")
