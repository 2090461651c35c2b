"""The months of iris_predictions: found, made, detached and dropped."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from alembic import command
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import dsn_of, settings_for
from tests.support.application import store
from tests.support.months import (
    interrupt_detach,
    month_of,
    partitions_of,
    remake_months,
    role_without_tables,
    store_months_ago,
)

from iris_api.database.migrations import alembic_config, migrate
from iris_api.database.owner import owner_session
from iris_api.database.partitions import (
    Partition,
    add_months,
    detach,
    drop,
    find_coverage,
    find_partitions,
    why_not_owner,
)
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings


@pytest.fixture
async def owner(database: URL) -> AsyncIterator[AsyncSession]:
    """A session on a direct connection of the tables' owner."""
    settings = Settings.model_validate({"database_url": dsn_of(database)})
    async with owner_session(settings) as session:
        yield session


async def partition_of(session: AsyncSession, month: str) -> Partition:
    [found] = [one for one in await find_partitions(session) if one.month == month]
    return found


async def test_find_partitions_has_the_times_states_rows_and_bytes_of_each_month(
    owner: AsyncSession, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=2, ahead=1)
    await store_months_ago(connection, 1, count=1000)
    await connection.execute("ANALYZE iris_predictions")
    await connection.execute("CREATE SCHEMA other; CREATE TABLE other.iris_predictions_2026_01 ()")
    found = await find_partitions(owner)
    assert [one.month for one in found] == [
        await month_of(connection, ago=ago) for ago in (2, 1, 0, -1)
    ]
    assert {one.state for one in found} == {"attached"}
    assert [one.starts_at for one in found] == [None, *(one.ends_at for one in found[:-1])]
    assert found[1].starts_at is not None
    assert (found[1].starts_at.day, found[1].starts_at.tzinfo) == (1, UTC)
    assert [one.rows for one in found] == [0, 1000, 0, 0]
    assert found[1].bytes > found[0].bytes > 0


async def test_add_months_twice_at_once_makes_each_month_once(
    database: URL, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=0, ahead=0)
    settings = Settings.model_validate({"database_url": dsn_of(database)})

    async def add() -> list[str]:
        async with owner_session(settings) as session:
            return await add_months(session)

    added = await asyncio.gather(*(add() for _ in range(4)))
    assert sorted(map(len, added)) == [0, 0, 0, 24]
    assert await partitions_of(connection) == 25


async def test_add_months_waits_for_no_transaction_that_reads_or_writes(
    owner: AsyncSession, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=0, ahead=1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE iris_predictions IN ROW EXCLUSIVE MODE")
        async with asyncio.timeout(30):
            assert len(await add_months(owner, 2)) == 1
        await store(connection, created_at=datetime.now(UTC))
    assert (await find_coverage(owner)).months_ahead == 2


async def test_add_months_by_a_superuser_gives_them_to_the_owner_of_the_table(
    owner: AsyncSession, connection: asyncpg.Connection, database: URL
) -> None:
    await remake_months(connection, ago=0, ahead=0)
    async with role_without_tables(connection, database) as url:
        await connection.execute(f"ALTER TABLE iris_predictions OWNER TO {url.username}")
        assert len(await add_months(owner)) == 24
        owned = await connection.fetchval(
            "SELECT count(*) FROM pg_class JOIN pg_inherits ON inhrelid = oid"
            " WHERE inhparent = 'iris_predictions'::regclass AND relowner = $1::regrole",
            url.username,
        )
    assert owned == 24


async def test_find_coverage_ends_at_the_first_gap(
    owner: AsyncSession, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=1, ahead=5)
    assert (await find_coverage(owner)).months_ahead == 5
    gap = (await month_of(connection, ago=-3)).replace("-", "_")
    await connection.execute(f"DROP TABLE iris_predictions_{gap}")
    assert (await find_coverage(owner)).months_ahead == 2
    await remake_months(connection, ago=3, ahead=-1)
    coverage = await find_coverage(owner)
    assert coverage.months_ahead == -1
    assert coverage.until == coverage.now


@pytest.mark.parametrize(
    "bounds",
    ["DEFAULT", "FOR VALUES FROM ({end}) TO (MAXVALUE)", "FOR VALUES FROM ({end}) TO ('{last}')"],
)
async def test_find_coverage_with_an_operators_partition_for_all_later_ids_is_without_end(
    owner: AsyncSession, connection: asyncpg.Connection, bounds: str
) -> None:
    await remake_months(connection, ago=1, ahead=-1)
    end = await connection.fetchval(
        "SELECT substring(pg_get_expr(relpartbound, oid) FROM $$TO \\(('.*')\\)$$) FROM pg_class"
        " WHERE relispartition AND relkind = 'r'"
    )
    bounds = bounds.format(end=end, last="f" * 32)
    await connection.execute(f"CREATE TABLE later PARTITION OF iris_predictions {bounds}")
    assert (await find_coverage(owner)).months_ahead > 12 * 7000
    assert [one.name for one in await find_partitions(owner)][1:] == ["later"]


async def test_detach_waits_for_a_transaction_and_finishes_what_was_interrupted(
    owner: AsyncSession, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=3, ahead=1)
    ids = {ago: (await store_months_ago(connection, ago))[0] for ago in (3, 2, 1, 0)}
    oldest, second = [await month_of(connection, ago=ago) for ago in (3, 2)]
    async with connection.transaction():
        await connection.fetch("SELECT count(*) FROM iris_predictions")
        await interrupt_detach(connection, detach(owner, await partition_of(owner, oldest)))
    await owner.close()
    assert (await partition_of(owner, oldest)).state == "detaching"

    await detach(owner, await partition_of(owner, second))
    states = [one.state for one in await find_partitions(owner)]
    assert states == ["detached", "detached", "attached", "attached", "attached"]
    left = await connection.fetch("SELECT id::text FROM iris_predictions ORDER BY id")
    assert [row["id"] for row in left] == [ids[1], ids[0]]
    kept = f"iris_predictions_{oldest.replace('-', '_')}"
    assert await connection.fetchval(f"SELECT id::text FROM {kept}") == ids[3]
    assert (await partition_of(owner, oldest)).starts_at == datetime.strptime(
        oldest, "%Y-%m"
    ).replace(tzinfo=UTC)


async def test_drop_deletes_the_month_and_the_former_ids_of_its_predictions(
    owner: AsyncSession, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=1, ahead=1)
    for ago in (1, 0):
        [prediction_id] = await store_months_ago(connection, ago)
        await connection.execute(
            "INSERT INTO former_prediction_ids VALUES ($1, $2)", ago, prediction_id
        )
    month = await month_of(connection, ago=1)
    await detach(owner, await partition_of(owner, month))
    await drop(owner, await partition_of(owner, month))
    assert month not in [one.month for one in await find_partitions(owner)]
    assert await connection.fetchval("SELECT count(*) FROM iris_predictions") == 1
    former = await connection.fetch("SELECT former_id FROM former_prediction_ids")
    assert [row["former_id"] for row in former] == [0]


async def test_why_not_owner_names_both_roles_and_the_setting(
    owner: AsyncSession, connection: asyncpg.Connection, database: URL
) -> None:
    assert await why_not_owner(owner) is None
    async with role_without_tables(connection, database) as url:
        settings = Settings.model_validate({"database_url": dsn_of(url)})
        async with owner_session(settings) as session:
            why_not = await why_not_owner(session)
    assert why_not is not None
    for word in (url.username, str(database.username), "IRIS_MIGRATION_DATABASE_URL"):
        assert str(word) in why_not


async def test_alembic_check_with_a_detached_month_finds_no_difference(
    owner: AsyncSession, connection: asyncpg.Connection, database: URL
) -> None:
    await remake_months(connection, ago=1, ahead=1)
    await detach(owner, await partition_of(owner, await month_of(connection, ago=1)))
    await asyncio.to_thread(command.check, alembic_config(settings_for(database)))


async def test_migrate_of_a_current_schema_makes_the_months_that_are_missing(
    database: URL, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=0, ahead=2)
    await asyncio.to_thread(migrate, settings_for(database))
    assert await partitions_of(connection) == 25


async def test_migrate_by_a_role_that_does_not_own_the_tables_reports_missing_months(
    database: URL, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=0, ahead=2)
    async with role_without_tables(connection, database) as url:
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {url.username}")
        settings = Settings.model_validate({"database_url": dsn_of(url)})
        reported: list[str] = []
        await asyncio.to_thread(migrate, settings, report=reported.append)
    assert await partitions_of(connection) == 3
    [sentence] = reported
    assert sentence.startswith("No months were added.")


async def test_migrate_with_a_migration_database_url_uses_it_and_names_it_in_errors(
    database: URL, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=0, ahead=2)
    async with role_without_tables(connection, database) as url:
        settings = Settings.model_validate(
            {
                "database_url": dsn_of(url),
                "migration_database_url": dsn_of(database),
            }
        )
        await asyncio.to_thread(migrate, settings)
        assert await partitions_of(connection) == 25
        nowhere = dsn_of(database.set(database="iris_nowhere"))
        wrong = Settings.model_validate(settings.model_dump() | {"migration_database_url": nowhere})
        with pytest.raises(ConfigurationError, match="IRIS_MIGRATION_DATABASE_URL"):
            await asyncio.to_thread(migrate, wrong)
