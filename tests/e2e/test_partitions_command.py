"""`iris-api partitions`, beside a service and before there is one."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest
from sqlalchemy import URL
from tests.conftest import dsn_of, way_to
from tests.support.application import fetch
from tests.support.log_lines import lines_of
from tests.support.months import month_of, remake_months, role_without_tables, store_months_ago
from tests.support.service import Service, assert_one_clear_sentence, environment, run

T = TypeVar("T")
COUNT = "SELECT count(*)::int FROM iris_predictions"


def at(database: URL, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """Return what a coroutine function returns for a connection to the database."""

    async def connect() -> T:
        connection = await asyncpg.connect(dsn_of(database))
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connect())


@pytest.fixture
def months(database: URL) -> dict[int, str]:
    """Three past months of 50 rows, the current one, one ahead: their names, by months ago."""

    async def make(connection: asyncpg.Connection) -> dict[int, str]:
        await remake_months(connection, ago=3, ahead=1)
        for ago in (3, 2, 1):
            await store_months_ago(connection, ago, 50)
        await connection.execute("ANALYZE iris_predictions")
        return {ago: await month_of(connection, ago=ago) for ago in range(-24, 4)}

    return at(database, make)


def partitions(folder: Path, database: URL, *arguments: str, **settings: object) -> str:
    """Run ``iris-api partitions``; return what it says on standard output."""
    result = run(folder, "partitions", *arguments, **{**way_to(database), **settings})
    assert result.returncode == 0, result.stderr
    return result.stdout


def states(folder: Path, database: URL) -> dict[str, str]:
    """The state of each month, as `iris-api partitions list` has it."""
    titles, *rows = [line.split("\t") for line in partitions(folder, database, "list").splitlines()]
    assert titles == ["month", "state", "from", "to", "rows", "bytes"]
    return {row[0]: row[1] for row in rows}


def test_partitions_lists_makes_detaches_and_drops_months_beside_a_running_service(
    begin: Callable[..., Service], folder: Path, database: URL, months: dict[int, str]
) -> None:
    service = begin()
    assert "`iris-api partitions ensure`" in str(service.get("/readyz"))
    listed = partitions(folder, database, "list").splitlines()[1:]
    assert [line.split("\t")[0] for line in listed] == [months[ago] for ago in (3, 2, 1, 0, -1)]
    assert listed[0].split("\t")[1:5] == ["attached", "-", f"{months[2]}-01", "50"]
    assert listed[1].split("\t")[1:5] == ["attached", f"{months[2]}-01", f"{months[1]}-01", "50"]

    said = partitions(folder, database, "ensure", log_format="console")
    assert f"New months: {months[-2]}, " in said
    assert months[-24] in said
    said = partitions(folder, database, "ensure", log_format="console")
    assert "New months: none." in said
    assert "`iris-api partitions ensure`" not in str(service.get("/readyz"))

    said = partitions(folder, database, "detach", months[3], "--yes", log_format="console")
    assert f"{months[3]} is detached" in said
    assert states(folder, database)[months[3]] == "detached"
    assert fetch(database, COUNT) == [(100,)]
    for ago in (3, 2):
        said = partitions(folder, database, "drop", months[ago], "--yes", log_format="console")
        assert f"{months[ago]} is dropped, with about 50 predictions" in said
    assert set(states(folder, database)) == {months[ago] for ago in range(-24, 2)}
    assert fetch(database, COUNT) == [(50,)]
    assert service.get("/readyz")[0] == 200
    assert len(service.get("/predictions?limit=1000")[1]["items"]) == 50
    assert service.stop() == 0
    assert not [line for line in lines_of(service) if line["level"] not in {"info", "debug"}]


@pytest.mark.parametrize("command", ["detach", "drop"])
@pytest.mark.parametrize(
    ("ago", "words"), [(0, "has not ended"), (-1, "has not ended"), (None, "list")]
)
def test_partitions_detach_and_drop_of_a_month_that_is_not_past_exits_with_one_sentence(
    folder: Path, database: URL, months: dict[int, str], command: str, ago: int | None, words: str
) -> None:
    month = "1999-01" if ago is None else months[ago]
    result = run(folder, "partitions", command, month, "--yes", **way_to(database))
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, month, words)
    assert set(states(folder, database).values()) == {"attached"}


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "26-11", "2026_11", "2026-11-01"])
def test_partitions_drop_with_an_invalid_month_exits_with_2(
    folder: Path, tmp_path: Path, month: str
) -> None:
    result = run(folder, "partitions", "drop", month, "--yes", data_dir=tmp_path / "new")
    assert result.returncode == 2
    assert "Give a month as 2026-11." in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("command", "told"), [("detach", "they stay"), ("drop", "for good")])
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_partitions_detach_and_drop_without_yes_says_what_is_lost_and_asks(
    folder: Path,
    database: URL,
    months: dict[int, str],
    command: str,
    told: str,
    answer: str,
    code: int,
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "iris_api", "partitions", command, months[2]],
        env=environment(**way_to(database)),
        cwd=folder,
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    for words in ("about 50 predictions", " bytes", told):
        assert words in result.stderr
    assert fetch(database, COUNT) == [(100 if code == 0 else 150,)]


def test_partitions_ensure_by_a_role_that_does_not_own_the_table_exits_with_one_sentence(
    folder: Path, database: URL, months: dict[int, str]
) -> None:
    async def try_commands(connection: asyncpg.Connection) -> None:
        async with role_without_tables(connection, database) as url:
            own = {
                "database_url": dsn_of(url),
                "database_pgbouncer": False,
            }
            for command in (["ensure"], ["detach", months[2], "--yes"]):
                result = await asyncio.to_thread(run, folder, "partitions", *command, **own)
                assert result.returncode == 1
                assert_one_clear_sentence(
                    result.stderr, str(url.username), "IRIS_MIGRATION_DATABASE_URL"
                )
            assert months[-24] not in await asyncio.to_thread(states, folder, database)
            own["migration_database_url"] = dsn_of(database)
            result = await asyncio.to_thread(run, folder, "partitions", "ensure", **own)
            assert result.returncode == 0, result.stderr

    at(database, try_commands)
    assert months[-24] in states(folder, database)


def test_partitions_and_migrate_with_a_wrong_migration_database_url_name_that_setting(
    folder: Path, database: URL
) -> None:
    nowhere = dsn_of(database.set(database="iris_nowhere"))
    for command in (["partitions", "list"], ["partitions", "ensure"], ["migrate"]):
        for url in (nowhere, "nonsense"):
            result = run(folder, *command, **way_to(database), migration_database_url=url)
            assert result.returncode == 1
            assert_one_clear_sentence(result.stderr, "IRIS_MIGRATION_DATABASE_URL")


def test_serve_with_a_migration_database_url_alone_exits_with_one_sentence(
    folder: Path, database: URL, tmp_path: Path
) -> None:
    url = dsn_of(database)
    result = run(folder, "serve", migration_database_url=url, data_dir=tmp_path / "new")
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, "IRIS_MIGRATION_DATABASE_URL", "IRIS_DATABASE_URL")
