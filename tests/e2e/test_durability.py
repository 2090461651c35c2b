"""The command refuses a PostgreSQL that loses what it has confirmed, before it serves."""

from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import execute, way_to
from tests.e2e.conftest import Start
from tests.support.service import assert_one_clear_sentence


@pytest.fixture
def unsafe(database: URL) -> dict[str, object]:
    """The settings that lead to a database which answers before its log is on the disk."""
    execute(database, f"ALTER DATABASE {database.database} SET synchronous_commit = off")
    return way_to(database)


def test_serve_with_synchronous_commit_off_exits_with_one_sentence(
    start: Start, unsafe: dict[str, object], data_dir: Path
) -> None:
    service = start(**unsafe, data_dir=data_dir)
    assert service.wait() == 1
    assert_one_clear_sentence(
        service.errors, "synchronous_commit off", "IRIS_ALLOW_UNSAFE_DATABASE"
    )
    assert service.output == ""


def test_serve_with_synchronous_commit_off_and_allow_unsafe_database_serves_and_warns(
    start: Start, unsafe: dict[str, object], data_dir: Path
) -> None:
    service = start(**unsafe, data_dir=data_dir, allow_unsafe_database="true").until_ready()
    assert "database_not_durable" in service.errors
    assert service.stop() == 0
