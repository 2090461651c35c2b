"""``iris-api keys create | list | revoke``."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from iris_api import signals
from iris_api.auth.api_keys import SCOPES, create_api_key, list_api_keys, revoke_api_key
from iris_api.cli.console import begin
from iris_api.database.models import ApiKey
from iris_api.database.session import one_session
from iris_api.embedded.postgres import database_of
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

_LONGEST_CLIENT = 100  # characters

app = typer.Typer(name="keys", help="Make, list and revoke API keys.", no_args_is_help=True)


def _require_scopes(scopes: list[str]) -> list[str]:
    if not set(scopes) <= set(SCOPES):
        raise typer.BadParameter(f"The scopes are {', '.join(SCOPES)}.")
    return scopes


@app.command()
def create(
    *,
    client: Annotated[
        str, typer.Option(help="Whose key it is: only this client reads what it predicts.")
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            help=f"What the key allows: {', '.join(SCOPES)}. Give it again for more.",
            callback=_require_scopes,
        ),
    ] = ["predict", "read"],  # noqa: B006, typer copies it
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires; else never.")
    ] = None,
) -> None:
    """Make an API key. It is shown once, on standard output, and stored as a hash."""
    if not client.isprintable() or not 1 <= len(client) <= _LONGEST_CLIENT:
        raise typer.BadParameter(
            f"A client has a name of 1 to {_LONGEST_CLIENT} printable characters."
        )
    settings, _ = begin()

    async def make(settings: Settings) -> tuple[ApiKey, str]:
        async with one_session(settings) as session:
            lifetime = None if days is None else timedelta(days=days)
            return await create_api_key(session, client, scope, lifetime)

    with database_of(settings) as with_database:
        row, token = signals.run(make(with_database))
    Console(stderr=True, soft_wrap=True).print(
        f"Key {row.id} of {escape(client)}, for {', '.join(row.scopes)}. It cannot be shown again. "
        "Send it as `Authorization: Bearer ...`."
    )
    typer.echo(token)


@app.command("list")
def list_keys() -> None:
    """List all API keys, without the keys themselves."""
    settings, narrator = begin()

    async def read(settings: Settings) -> Sequence[ApiKey]:
        async with one_session(settings) as session:
            return await list_api_keys(session)

    with database_of(settings) as with_database:
        rows = signals.run(read(with_database))
    narrator.tabulate(
        ["id", "client", "scopes", "made", "expires", "revoked"],
        [
            [
                str(row.id),
                row.client,
                " ".join(row.scopes),
                *map(_as_text, (row.created_at, row.expires_at, row.revoked_at)),
            ]
            for row in rows
        ],
    )


@app.command()
def revoke(
    key_id: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="As `keys list` shows it.")],
) -> None:
    """Revoke an API key, for good."""
    settings, narrator = begin()

    async def end(settings: Settings) -> bool:
        async with one_session(settings) as session:
            return await revoke_api_key(session, key_id)

    with database_of(settings) as with_database:
        found = signals.run(end(with_database))
    if not found:
        raise ConfigurationError(f"There is no key {key_id}. `iris-api keys list` shows them all.")
    narrator.tell(
        f"Key {key_id} is revoked; within {settings.key_cache_seconds:g} s no worker takes it"
    )


def _as_text(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
