"""The command refuses a PostgreSQL that loses what it has confirmed, before it serves."""

from pathlib import Path

from sqlalchemy import URL
from tests.conftest import execute
from tests.e2e.conftest import Start
from tests.e2e.service import assert_one_clear_sentence


def make_unsafe(database: URL) -> str:
    execute(database, f"ALTER DATABASE {database.database} SET synchronous_commit = off")
    return database.render_as_string(hide_password=False)


def test_serve_ends_with_one_sentence(start: Start, database: URL, data_dir: Path) -> None:
    service = start(database_url=make_unsafe(database), data_dir=data_dir)
    assert service.wait() == 1
    assert_one_clear_sentence(
        service.errors, "synchronous_commit off", "IRIS_ALLOW_UNSAFE_DATABASE"
    )
    assert service.output == ""


def test_serve_serves_where_it_is_told_to(start: Start, database: URL, data_dir: Path) -> None:
    service = start(
        database_url=make_unsafe(database), data_dir=data_dir, allow_unsafe_database="true"
    ).until_ready()
    assert "may lose what it has confirmed" in service.errors
    assert service.stop() == 0
