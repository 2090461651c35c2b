"""Alembic's own commands, in a copy of the checkout so that no file is left behind."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.integration.commands import ROOT, environment, run, start
from tests.support.application import fetch

from iris_api.database.migrations import head_revision


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(
        ROOT / "migrations",
        tmp_path / "migrations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path


def versions(checkout: Path) -> set[Path]:
    return set((checkout / "migrations" / "versions").glob("*.py"))


def test_alembic_upgrade_check_revision_and_downgrade_from_a_checkout_succeed(
    empty_database: URL, checkout: Path
) -> None:
    env = environment(empty_database)
    released = versions(checkout)

    run("alembic", "upgrade", "head", env=env, cwd=checkout)
    assert fetch(empty_database, "SELECT version_num FROM alembic_version") == [(head_revision(),)]
    run("alembic", "check", env=env, cwd=checkout)

    run("alembic", "revision", "--autogenerate", "-m", "add a thing", env=env, cwd=checkout)
    [revision] = versions(checkout) - released
    assert revision.name.endswith("_add_a_thing.py")
    source = revision.read_text()
    assert f"down_revision: str | Sequence[str] | None = '{head_revision()}'" in source
    assert source.count("    pass\n") == 2, "the models and the migrations agree"

    run("alembic", "upgrade", "head", env=env, cwd=checkout)
    run("alembic", "downgrade", "base", env=env, cwd=checkout)
    assert fetch(empty_database, "SELECT version_num FROM alembic_version") == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense", "IRIS_DATABASE_URL is not a URL"),
        (None, "no such database"),
    ],
)
def test_alembic_current_with_a_wrong_database_url_fails_with_one_line(
    empty_database: URL, checkout: Path, url: str | None, told: str
) -> None:
    nowhere = empty_database.set(database="iris_nowhere").render_as_string(hide_password=False)
    env = environment(empty_database, IRIS_DATABASE_URL=url or nowhere)
    env["IRIS_DATABASE_PGBOUNCER"] = "false"
    process = start("alembic", "current", env=env, cwd=checkout)
    output, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    [line] = output.splitlines()
    assert line.startswith("FAILED: ")
    assert told in line
    assert "Traceback" not in errors


def test_alembic_upgrade_with_sql_prints_the_sql_and_changes_nothing(
    empty_database: URL, checkout: Path
) -> None:
    sql = run("alembic", "upgrade", "head", "--sql", env=environment(empty_database), cwd=checkout)
    assert "CREATE TABLE iris_predictions" in sql
    assert fetch(empty_database, "SELECT to_regclass('alembic_version')::text") == [(None,)]
