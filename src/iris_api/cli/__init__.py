"""The command line: ``iris-api serve | migrate | train | keys | partitions | settings``.

Each command imports its module when it is called, so that ``--help`` imports none of them.
"""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from iris_api import __version__
from iris_api.callers import SCOPES
from iris_api.errors import IrisApiError

app = typer.Typer(
    name="iris-api",
    help="Predictions over HTTP, each committed to PostgreSQL before it is answered.\n\n"
    "Settings are environment variables, or lines of the file .env in the current folder: "
    "`iris-api settings` lists and explains them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's panels show a flag as `--prepare <bool>`
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys_app = typer.Typer(
    name="keys",
    help="Make, list and revoke API keys.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys_app)
partitions_app = typer.Typer(
    name="partitions",
    help="List, make, detach and drop the months of the table of predictions.\n\n"
    "They need the role that owns the table: see IRIS_MIGRATION_DATABASE_URL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(partitions_app)
Month = Annotated[
    str, typer.Argument(metavar="MONTH", help="A past month, as 2026-11; `list` shows them.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def main() -> None:
    """Run the command line. Print an `IrisApiError` as one message, not as a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):  # escape what its encoding lacks, as stderr does
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="iris-api")
    except IrisApiError as error:
        from iris_api.cli.console import print_error

        print_error(error)
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
            help="First migrate the schema, and train an ML model where there is none. "
            "Implied where the database is the embedded one.",
        ),
    ] = False,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen here, not on IRIS_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65_535, help="Listen here, not on IRIS_PORT."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=64, help="Processes, instead of IRIS_WORKERS."),
    ] = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Without IRIS_DATABASE_URL, on a PostgreSQL that it starts in IRIS_DATA_DIR (.iris).
    """
    from iris_api.cli.serve import serve

    serve(prepare=prepare, host=host, port=port, workers=workers)


@app.command()
def migrate() -> None:
    """Upgrade the database schema to this release's revision."""
    from iris_api.cli.migrate import migrate

    migrate()


@app.command()
def train(
    *,
    candidate: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Take this one, such as linear-discriminant, without comparing."
        ),
    ] = None,
) -> None:
    """Choose a classifier by cross-validation and fit it.

    It becomes the ML model in IRIS_DATA_DIR (.iris). A service that runs takes it when it is
    restarted.
    """
    from iris_api.cli.train import train

    train(candidate)


@app.command()
def settings(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of objects.")] = False,
) -> None:
    """List all settings: value, origin, default and meaning.

    Where standard output is no terminal, a line for each, its fields separated by tabs.
    """
    from iris_api.cli.settings import list_settings

    list_settings(as_json=as_json)


@keys_app.command("create")
def create_key(
    *,
    client: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Whose key it is: only this client reads what it predicts."
        ),
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            autocompletion=lambda: list(SCOPES),
            help=f"What the key allows: {', '.join(SCOPES)}. Give it again for more.",
        ),
    ] = ["predict", "read"],  # noqa: B006, typer copies it
    days: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=36_500, help="Days until it expires; else never."),
    ] = None,
) -> None:
    """Create an API key. It is shown once, on standard output, and stored as a hash."""
    from iris_api.cli.keys import create

    create(client, scope, days)


@keys_app.command("list")
def list_keys() -> None:
    """List all API keys, without the keys themselves.

    Where standard output is no terminal, a line for each, its fields separated by tabs.
    """
    from iris_api.cli.keys import list_all

    list_all()


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[
        int,
        typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="As `keys list` shows it."),
    ],
) -> None:
    """Revoke an API key permanently."""
    from iris_api.cli.keys import revoke

    revoke(key_id)


@partitions_app.command("list")
def list_partitions() -> None:
    """List all months: state, times, estimate of rows, bytes with indexes.

    Where standard output is no terminal, a line for each, its fields separated by tabs.
    """
    from iris_api.cli.partitions import list_all

    list_all()


@partitions_app.command("ensure")
def ensure_partitions() -> None:
    """Make the months up to two years ahead that are missing. For cron, once a month."""
    from iris_api.cli.partitions import ensure

    ensure()


@partitions_app.command("detach")
def detach_partition(month: Month, *, yes: Yes = False) -> None:
    """Take a month out of the history. It stays as a table of its own.

    Requests go on meanwhile. A detaching that was interrupted is finished.
    """
    from iris_api.cli.partitions import detach

    detach(month, is_sure=yes)


@partitions_app.command("drop")
def drop_partition(month: Month, *, yes: Yes = False) -> None:
    """Delete a month, detached or not, with all of its predictions."""
    from iris_api.cli.partitions import drop

    drop(month, is_sure=yes)
