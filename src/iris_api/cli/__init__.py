"""The command line: ``iris-api serve | migrate | train | keys``.

Each command imports its module when it is called, so that ``--help`` imports none of them.
"""

import sys
from typing import Annotated

import typer

from iris_api import __version__
from iris_api.callers import SCOPES
from iris_api.errors import IrisApiError

app = typer.Typer(
    name="iris-api",
    help="Predictions over HTTP, each committed to PostgreSQL before it is answered. "
    "Settings come from the environment; docs/settings.md lists them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys_app)


def main() -> None:
    """Run the command line. Print an `IrisApiError` as one message, not as a traceback."""
    try:
        app()
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
            help="First migrate the schema, and train a model where there is none. "
            "Implied where the database is the embedded one.",
        ),
    ] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from iris_api.cli.serve import serve

    serve(prepare=prepare)


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
        typer.Option(help="Take this one, such as linear-discriminant, without comparing."),
    ] = None,
) -> None:
    """Choose a classifier by cross-validation, fit it, and make it the model."""
    from iris_api.cli.train import train

    train(candidate)


@keys_app.command("create")
def create_key(
    *,
    client: Annotated[
        str, typer.Option(help="Whose key it is: only this client reads what it predicts.")
    ],
    scope: Annotated[
        list[str],
        typer.Option(help=f"What the key allows: {', '.join(SCOPES)}. Give it again for more."),
    ] = ["predict", "read"],  # noqa: B006, typer copies it
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires; else never.")
    ] = None,
) -> None:
    """Create an API key. It is shown once, on standard output, and stored as a hash."""
    from iris_api.cli.keys import create

    create(client, scope, days)


@keys_app.command("list")
def list_keys() -> None:
    """List all API keys, without the keys themselves."""
    from iris_api.cli.keys import list_all

    list_all()


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="As `keys list` shows it.")],
) -> None:
    """Revoke an API key permanently."""
    from iris_api.cli.keys import revoke

    revoke(key_id)
