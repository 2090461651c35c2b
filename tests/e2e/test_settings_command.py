"""`iris-api settings`."""

import json
import re
from pathlib import Path

import pytest
from tests.e2e.terminal import at_terminal
from tests.support.service import assert_one_clear_sentence, run

from iris_api.settings import Settings

URL = "postgresql://iris:hunter2@db/iris"


@pytest.fixture
def given(folder: Path, tmp_path: Path) -> dict[str, object]:
    """Settings of all sources; the environment's are returned."""
    (folder / ".env").write_text("IRIS_PORT=81\nIRIS_HOST=::1\n")
    (tmp_path / "url").write_text(f"{URL}\n")
    return {"port": 82, "database_url_file": tmp_path / "url"}


def test_settings_without_a_terminal_lists_each_with_its_source_between_tabs(
    folder: Path, tmp_path: Path, given: dict[str, object]
) -> None:
    result = run(folder, "settings", **given)
    assert result.returncode == 0, result.stderr
    titles, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert titles == ["name", "value", "source", "default", "meaning"]
    assert [row[0] for row in rows] == [f"IRIS_{name.upper()}" for name in Settings.model_fields]
    found = {row[0]: row[1:4] for row in rows}
    assert found["IRIS_DATABASE_URL"] == ["**********", str(tmp_path / "url"), "unset"]
    assert found["IRIS_PORT"] == ["82", "environment", "8000"]
    assert found["IRIS_HOST"] == ["::1", ".env", "127.0.0.1"]
    assert found["IRIS_WORKERS"] == ["1", "default", "1"]
    assert found["IRIS_DATABASE_PGBOUNCER"] == ["false", "default", "false"]
    assert result.stderr == ""


def test_settings_as_json_is_an_array_of_objects(folder: Path, given: dict[str, object]) -> None:
    rows = json.loads(run(folder, "settings", "--json", **given).stdout)
    assert len(rows) == len(Settings.model_fields)
    [port] = [row for row in rows if row["name"] == "IRIS_PORT"]
    assert port.pop("meaning").startswith("The port")
    assert port == {
        "name": "IRIS_PORT", "value": "82", "source": "environment", "default": "8000",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_settings_with_an_invalid_one_lists_all_and_exits_with_one_sentence(
    folder: Path, arguments: list[str]
) -> None:
    result = run(folder, "settings", *arguments, workers="zebra", database_url=URL)
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, "IRIS_WORKERS")
    assert "zebra" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr


def test_settings_with_a_misspelt_one_warns(folder: Path) -> None:
    (folder / ".env").write_text("IRIS_WORKER=2\n")
    result = run(folder, "settings")
    assert result.returncode == 0
    assert result.stderr == "warning: IRIS_WORKER in .env is no setting; is IRIS_WORKERS meant?\n"


def test_settings_at_a_terminal_fits_into_80_columns(
    folder: Path, given: dict[str, object]
) -> None:
    shown = re.sub(r"\x1b\[\d+m", "", at_terminal(folder, "settings", settings=given))
    assert "IRIS_PORT=82   (environment; default: 8000)\n    The port" in shown
    assert "hunter2" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if "/" not in line)
