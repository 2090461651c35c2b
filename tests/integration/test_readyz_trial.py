"""``/readyz`` is 503, with the reason, where no prediction can be stored."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import execute, settings_for
from tests.integration.states import PARTS, checks
from tests.support.application import PARTITION, assert_problem, count_rows, running
from tests.support.flowers import SETOSA

from iris_api.database.migrations import migrate
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

DROP_ALL = """
    CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;
    CREATE TRIGGER meddle BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION meddle();
"""
AS_A_VIEW = """
    ALTER TABLE iris_predictions RENAME TO x;
    CREATE VIEW iris_predictions AS SELECT *, 1 AS one FROM x GROUP BY client_id, id
"""
HARMS = {
    "idempotency_keys renamed": (
        "ALTER TABLE idempotency_keys RENAME TO x",
        "ALTER TABLE x RENAME TO idempotency_keys",
        "lacks what this release needs",
    ),
    "a column that must be given": (
        "ALTER TABLE iris_predictions ADD tenant text NOT NULL",
        "ALTER TABLE iris_predictions DROP tenant",
        "23502",
    ),
    "a column that rounds": (
        "ALTER TABLE iris_predictions ALTER sepal_length TYPE real",
        "ALTER TABLE iris_predictions ALTER sepal_length TYPE double precision",
        "other values than were sent",
    ),
    "a trigger that drops all rows": (
        DROP_ALL.format("RETURN NULL;", "iris_predictions"),
        "DROP FUNCTION meddle CASCADE",
        "stored no row",
    ),
    "a trigger that drops all keys": (
        DROP_ALL.format("RETURN NULL;", "idempotency_keys"),
        "DROP FUNCTION meddle CASCADE",
        "Idempotency-Key",
    ),
    "a rule": (
        "CREATE RULE meddle AS ON INSERT TO iris_predictions DO INSTEAD NOTHING",
        "DROP RULE meddle ON iris_predictions",
        "0A000",
    ),
    "a view in the table's place": (
        AS_A_VIEW,
        "DROP VIEW iris_predictions; ALTER TABLE x RENAME TO iris_predictions",
        "55000",
    ),
}


@pytest.mark.parametrize(("harm", "cure", "reason"), HARMS.values(), ids=HARMS)
async def test_readyz_while_nothing_can_be_stored_is_503_with_its_reason(
    client: AsyncClient, connection: asyncpg.Connection, harm: str, cure: str, reason: str
) -> None:
    await connection.execute(harm)
    body = assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert reason in body["detail"]
    headers = {"Idempotency-Key": "mine"}
    assert (await client.post("/predict", json=SETOSA, headers=headers)).status_code in {500, 503}
    await connection.execute(cure)
    async with asyncio.timeout(10):
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.05)
    assert (await client.post("/predict", json=SETOSA, headers=headers)).status_code == 200


async def test_readyz_leaves_no_row_no_idempotency_key_and_no_name(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    names = await connection.fetch("SELECT name FROM clients UNION ALL SELECT version FROM models")
    assert await checks(client) == dict.fromkeys(PARTS, "ok")
    assert await count_rows(connection) == 1
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    assert names == await connection.fetch(
        "SELECT name FROM clients UNION ALL SELECT version FROM models"
    )


async def test_readyz_with_a_check_constraint_on_some_rows_is_200(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    """It may be about the trial's own row alone, which is no reason to serve nobody."""
    await connection.execute("ALTER TABLE iris_predictions ADD CHECK (client_id <> 1)")
    assert await checks(client) == dict.fromkeys(PARTS, "ok")


@pytest.mark.parametrize("table", [PARTITION, "idempotency_keys", "api_keys"])
async def test_readyz_and_predict_with_an_unlogged_table_are_503(
    settings: Settings, connection: asyncpg.Connection, table: str
) -> None:
    async with running(settings) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        await connection.execute(f"ALTER TABLE {table} SET UNLOGGED")
        body = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert f"{table} UNLOGGED" in body["detail"]
        assert "SET LOGGED" in body["detail"]
        response = await client.post("/predict", json=SETOSA)
        assert_problem(response, 503, "database-unsafe")
        await connection.execute(f"ALTER TABLE {table} SET LOGGED")
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


FOREIGN = {
    "of MLflow": ["4465047574b1"],
    "with a name of ours": ["0003"],
    "with an older name of ours": ["0001"],
    "of two branches": ["aaaa", "bbbb"],
}


@pytest.mark.parametrize("revisions", FOREIGN.values(), ids=FOREIGN)
async def test_migrate_and_readyz_with_a_revision_of_another_application_fail(
    empty_database: URL, data_dir: Path, revisions: list[str]
) -> None:
    values = ", ".join(f"('{revision}')" for revision in revisions)
    await asyncio.to_thread(
        execute,
        empty_database,
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);"
        f"INSERT INTO alembic_version VALUES {values}",
    )
    settings = settings_for(empty_database, data_dir)
    with pytest.raises(ConfigurationError, match="another application") as refusal:
        await asyncio.to_thread(migrate, settings)
    assert revisions[0] in str(refusal.value)
    assert "a database or a schema of its own" in str(refusal.value)
    async with running(settings) as client:
        body = assert_problem(await client.get("/readyz"), 503, "not-ready")
        assert "another application" in body["checks"]["schema"]["detail"]
        response = await client.post("/predict", json=SETOSA)
        assert_problem(response, 503, "schema-outdated")


async def test_migrate_with_an_existing_table_fails_with_the_message_of_postgresql(
    empty_database: URL, data_dir: Path
) -> None:
    await asyncio.to_thread(execute, empty_database, "CREATE TABLE iris_predictions (id int)")
    with pytest.raises(ConfigurationError, match=r"did not finish.*42P07.*already exists"):
        await asyncio.to_thread(migrate, settings_for(empty_database, data_dir))
