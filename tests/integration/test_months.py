"""The daily task: it makes months ahead, and drops those past IRIS_RETENTION."""

import asyncio
from typing import Any

import asyncpg
import pytest
import structlog
from sqlalchemy import URL
from tests.conftest import dsn_of
from tests.support.application import started
from tests.support.months import (
    interrupt_detach,
    month_of,
    partitions_of,
    remake_months,
    role_without_tables,
    store_months_ago,
)

from iris_api.recording import months
from iris_api.recording.months import keep_months
from iris_api.settings import Settings

HELD = "INSERT INTO leases VALUES ('months', 'another', now() + interval '1 hour')"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round begins soon after the one before."""
    for pause in ("_SECONDS_TO_FIRST_ROUND", "_SECONDS_BETWEEN_ROUNDS"):
        monkeypatch.setattr(months, pause, 0.01)


async def run_rounds(*workers: Settings, until: str, times: int = 1) -> list[dict[str, Any]]:
    """Run the task of these workers until the event is logged so often; return the log."""
    with structlog.testing.capture_logs() as lines:
        tasks = [asyncio.create_task(keep_months(settings)) for settings in workers]
        async with asyncio.timeout(60):
            while sum(line["event"] == until for line in lines) < times:
                await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [dict(line) for line in lines]


async def test_keep_months_of_several_workers_makes_months_and_keeps_the_others_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=5, ahead=22)
    for ago in (5, 4, 3, 2, 1, 0):
        await store_months_ago(connection, ago, count=3)
    await connection.execute("ANALYZE iris_predictions")
    kept = settings.model_copy(update={"retention": 3})
    lines = await run_rounds(*[kept] * 4, until="month_dropped", times=2)
    assert [line["event"] for line in lines] == ["months_added", "month_dropped", "month_dropped"]
    assert lines[0]["months"] == [await month_of(connection, ago=ago) for ago in (-23, -24)]
    assert [(line["month"], line["rows"]) for line in lines[1:]] == [
        (await month_of(connection, ago=ago), 3) for ago in (5, 4)
    ]
    assert await partitions_of(connection) == 1 + 3 + 24
    assert await connection.fetchval("SELECT count(*) FROM iris_predictions") == 4 * 3
    assert await connection.fetchval("SELECT count(*) FROM leases") == 1


async def test_application_keeps_months_beside_the_requests(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=1, ahead=1)
    async with started(settings), asyncio.timeout(60):
        while await partitions_of(connection) < 1 + 1 + 24:
            await asyncio.sleep(0.02)


async def test_keep_months_by_default_drops_nothing(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=500, ahead=23)
    await run_rounds(settings, until="months_added")
    assert await partitions_of(connection) == 500 + 1 + 24


async def test_keep_months_drops_a_detached_month_and_finishes_a_detaching_one(
    settings: Settings, connection: asyncpg.Connection, database: URL
) -> None:
    await remake_months(connection, ago=4, ahead=24)
    names = {
        ago: f"iris_predictions_{(await month_of(connection, ago=ago)).replace('-', '_')}"
        for ago in (4, 3, 2)
    }
    detach = "ALTER TABLE iris_predictions DETACH PARTITION"
    await connection.execute(f"{detach} {names[4]}")
    other = await asyncpg.connect(dsn_of(database))
    async with connection.transaction():
        await connection.fetch("SELECT count(*) FROM iris_predictions")
        await interrupt_detach(connection, other.execute(f"{detach} {names[2]} CONCURRENTLY"))
    await other.close()
    kept = settings.model_copy(update={"retention": 2})
    lines = await run_rounds(kept, until="month_dropped", times=2)
    assert [(line["event"], line["month"]) for line in lines] == [
        ("month_detached", await month_of(connection, ago=2)),
        ("month_dropped", await month_of(connection, ago=4)),
        ("month_dropped", await month_of(connection, ago=3)),
    ]
    exist = [
        await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", names[ago])
        for ago in (4, 3, 2)
    ]
    assert exist == [False, False, True]


async def test_keep_months_while_another_has_the_lease_does_nothing_until_it_ends(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "_SECONDS_TO_NEXT_TRY", 0.5)
    await remake_months(connection, ago=0, ahead=1)
    await connection.execute(HELD)
    task = asyncio.create_task(run_rounds(settings, until="months_added"))
    done, _ = await asyncio.wait([task], timeout=2)  # some tries
    assert not done
    assert await partitions_of(connection) == 2
    await connection.execute("UPDATE leases SET until = now()")
    assert [line["event"] for line in await task] == ["months_added"]
    assert await partitions_of(connection) == 25


async def test_keep_months_without_the_table_warns_and_tries_again(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(months, "_SECONDS_TO_NEXT_TRY", 0.5)
    await connection.execute("ALTER TABLE iris_predictions RENAME TO away")
    lines = await run_rounds(settings, until="months_not_kept", times=2)
    assert {line["log_level"] for line in lines} == {"warning"}
    assert "iris-api migrate" in lines[0]["detail"]


async def test_keep_months_by_a_role_that_does_not_own_the_table_says_so_once(
    settings: Settings,
    connection: asyncpg.Connection,
    database: URL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await remake_months(connection, ago=0, ahead=1)
    async with role_without_tables(connection, database) as url:
        changes = {
            **settings.model_dump(),
            "database_url": dsn_of(url),
            "database_pgbouncer": False,
        }
        serving = Settings.model_validate(changes)
        rounds: list[bool] = []
        run = months._Rounds.run

        async def count(self: months._Rounds) -> bool:
            rounds.append(await run(self))
            return rounds[-1]

        monkeypatch.setattr(months._Rounds, "run", count)
        with structlog.testing.capture_logs() as lines:
            task = asyncio.create_task(keep_months(serving))
            async with asyncio.timeout(60):
                while len(rounds) < 3:
                    await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        [line] = lines
        assert line["event"] == "months_not_owned"
        assert "IRIS_MIGRATION_DATABASE_URL" in line["detail"]
        assert await partitions_of(connection) == 2

        owned = Settings.model_validate(changes | {"migration_database_url": dsn_of(database)})
        await run_rounds(owned, until="months_added")
        assert await partitions_of(connection) == 25
