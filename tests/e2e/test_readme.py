"""README.md shows what happens: its commands are run, and their answers compared."""

import re
from pathlib import Path

import pytest

from iris_api.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n\$ (.+)\n(.+)\n```", README)
VARIES = {"id", "created_at", "next_cursor"}


def settings_table() -> str:
    rows = ["| variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = (
            "unset"
            if field.default is None
            else f"`{field.default}`"
            if field.default != ""
            else "empty"
        )
        rows.append(f"| `IRIS_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_settings_table_is_the_settings() -> None:
    [table] = re.findall(r"<!-- settings: .+ -->\n(.*)\n<!-- /settings -->", README, re.DOTALL)
    assert table.strip() == settings_table()


def without_what_varies(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_what_varies(item) for key, item in value.items() if key not in VARIES}
    if isinstance(value, list):
        return [without_what_varies(item) for item in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_there_are_commands_to_run() -> None:
    assert len(CONSOLE) == 3
