"""``iris-api settings``."""

import json
import sys

import typer

from iris_api.cli.console import print_table, styled
from iris_api.environment import variable_of
from iris_api.observability.console_log import wrapped
from iris_api.settings import SECRETS, Settings, environment_warnings, given_settings, load_settings

_TITLES = ("name", "value", "source", "default", "meaning")
_INDENT = "    "


def list_settings(*, as_json: bool) -> None:
    """Print all settings as they are given. Then raise `ConfigurationError` if one is invalid."""
    rows = _rows()
    if as_json:
        typer.echo(json.dumps([dict(zip(_TITLES, row, strict=True)) for row in rows], indent=2))
    elif sys.stdout.isatty():
        for row in rows:
            typer.echo(_entry(*row))
    else:
        print_table(_TITLES, rows)
    for sentence in environment_warnings():
        typer.echo(f"warning: {sentence}", err=True)
    load_settings()


def _rows() -> list[tuple[str, str, str, str, str]]:
    given = given_settings()
    rows = []
    for name, field in Settings.model_fields.items():
        default = _as_text(field.default)
        value, source = default, "default"
        if name in given:
            value = "**********" if name in SECRETS else given[name].value
            source = given[name].origin
        rows.append((variable_of(name), value, source, default, str(field.description)))
    return rows


def _as_text(default: object) -> str:
    """A default as docs/settings.md shows it."""
    if default is None or default == "":
        return "unset" if default is None else "empty"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _entry(name: str, value: str, source: str, default: str, meaning: str) -> str:
    """One setting for a terminal."""
    origin = "" if source == "default" else f"   ({source}; default: {default})"
    head = wrapped(f"{name}={value}{origin}", sys.stdout, _INDENT)
    head = styled(name, bold=True) + head.removeprefix(name)
    return f"{head}\n{wrapped(_INDENT + meaning, sys.stdout, _INDENT)}"
