"""``iris-api keys create | list | revoke``."""

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

import typer

from iris_api import signals
from iris_api.auth.api_keys import (
    Revocation,
    create_api_key,
    list_api_keys,
    revoke_api_key,
)
from iris_api.callers import SCOPES
from iris_api.cli.console import begin, print_table
from iris_api.database.models import ApiKey
from iris_api.database.session import session_scope
from iris_api.embedded.postgres import provide_database
from iris_api.errors import ConfigurationError
from iris_api.observability.console_log import wrapped
from iris_api.settings import Settings

_MAX_CLIENT_LENGTH = 100  # characters
_NO_KEYS = "There are no API keys yet. `iris-api keys create --client NAME` makes one."


def create(client: str, scopes: list[str], days: int | None) -> None:
    """Create an API key and print it. Raises `typer.BadParameter` for an invalid name or scope.

    ``days`` is the time until it expires; None: never.
    """
    if not client.isprintable() or not 1 <= len(client) <= _MAX_CLIENT_LENGTH:
        raise typer.BadParameter(
            f"A client has a name of 1 to {_MAX_CLIENT_LENGTH} printable characters."
        )
    if not set(scopes) <= set(SCOPES):
        raise typer.BadParameter(f"The scopes are {', '.join(SCOPES)}.")
    settings, _ = begin()

    async def make(settings: Settings) -> tuple[ApiKey, str]:
        async with session_scope(settings) as session:
            lifetime = None if days is None else timedelta(days=days)
            return await create_api_key(session, client, scopes, lifetime)

    with provide_database(settings) as with_database:
        row, token = signals.run(make(with_database))
    text = (
        f"Key {row.id} of {client}, for {', '.join(row.scopes)}. It cannot be shown again. Send it "
        "as `Authorization: Bearer ...`."
    )
    typer.echo(wrapped(text, sys.stderr), err=True)
    typer.echo(token)


def list_all() -> None:
    """List all API keys, without the keys themselves."""
    settings, _ = begin()

    async def read(settings: Settings) -> Sequence[ApiKey]:
        async with session_scope(settings) as session:
            return await list_api_keys(session)

    with provide_database(settings) as with_database:
        rows = signals.run(read(with_database))
    if not rows:
        typer.echo(_NO_KEYS, err=True)
        return
    print_table(
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


def revoke(key_id: int) -> None:
    """Revoke an API key permanently. Raises `ConfigurationError` if none has this id."""
    settings, console = begin()

    async def end(settings: Settings) -> Revocation | None:
        async with session_scope(settings) as session:
            return await revoke_api_key(session, key_id)

    with provide_database(settings) as with_database:
        revocation = signals.run(end(with_database))
    if revocation is None:
        raise ConfigurationError(f"There is no key {key_id}. `iris-api keys list` shows them all.")
    if not revocation.is_new:
        console.info(
            f"Key {key_id} was revoked already, at {_as_text(revocation.at)}",
            event="api_key_already_revoked",
            key_id=key_id,
        )
        return
    console.info(
        f"Key {key_id} is revoked; within {settings.key_cache_seconds:g} s no worker takes it",
        event="api_key_revoked",
        key_id=key_id,
    )


def _as_text(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
