"""Idempotency keys are forgotten after a day, beside all that goes on."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession
from tests.integration.repeats import ask, ask_all, assert_same, count_keys
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database.crud import prune_idempotency_keys
from iris_api.recording import idempotent, retention
from iris_api.settings import Settings


async def test_prune_idempotency_keys_deletes_old_keys_and_predict_may_reuse_them(
    client: AsyncClient, connection: asyncpg.Connection, session: AsyncSession
) -> None:
    old, _, young = [await ask(client, key) for key in ("old", "older", "young")]
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'"
        " WHERE key <> 'young'"
    )
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'"
        " WHERE key = 'young'"
    )
    assert await prune_idempotency_keys(session, older_than=timedelta(hours=24)) == 2
    assert await prune_idempotency_keys(session, older_than=timedelta(hours=24)) == 0
    assert_same([young, await ask(client, "young")])
    new = await ask(client, "old", VIRGINICA)
    assert new.status_code == 200
    assert new.json()["id"] != old.json()["id"]
    assert await count_rows(connection) == 4  # what was predicted is kept


async def test_prune_idempotency_keys_deletes_at_most_10000_rows_per_call(
    connection: asyncpg.Connection, session: AsyncSession
) -> None:
    await connection.execute(
        "INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids, created_at)"
        " SELECT 'one', n::text, false, ARRAY[gen_random_uuid()], now() - interval '2 days'"
        " FROM generate_series(1, 25000) AS n"
    )
    day = timedelta(days=1)
    pruned = [await prune_idempotency_keys(session, older_than=day) for _ in range(4)]
    assert pruned == [10_000, 10_000, 5000, 0]
    assert await count_keys(connection) == 0


async def test_retention_after_a_failed_round_deletes_old_idempotency_keys(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_SECONDS_BETWEEN_ROUNDS", 0.02)
    await connection.execute("""
        CREATE SEQUENCE attempts;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'a defect'; END IF;
            RETURN OLD;
        END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON idempotency_keys
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    async with running(settings) as client:
        assert (await ask(client, "old")).status_code == 200
        assert (await ask(client, "young")).status_code == 200
        await connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'"
        )
        async with asyncio.timeout(30):
            while await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 2:
                await asyncio.sleep(0.02)
    assert await connection.fetchval("SELECT last_value FROM attempts") == 2
    assert await connection.fetchval("SELECT key FROM idempotency_keys") == "young"


async def test_predict_with_an_idempotency_key_pruned_during_its_lookup_is_503(
    client: AsyncClient, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(client, "old")
    find = idempotent._find

    async def forget_and_find(*args: Any, **kwargs: Any) -> Any:
        await connection.execute("DELETE FROM idempotency_keys")
        return await find(*args, **kwargs)

    monkeypatch.setattr(idempotent, "_find", forget_and_find)
    body = assert_problem(await ask(client, "old"), 503, "database-unavailable")
    assert "Nothing was stored." in body["detail"]
    monkeypatch.undo()
    again = await ask(client, "old")
    assert again.status_code == 200
    assert again.content != first.content


async def test_prune_idempotency_keys_skips_rows_locked_by_another_replica(
    connection: asyncpg.Connection, session: AsyncSession, client: AsyncClient
) -> None:
    await ask_all(client, [("one", SETOSA), ("other", SETOSA)])
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '2 days'")
    async with connection.transaction():
        await connection.execute("DELETE FROM idempotency_keys WHERE key = 'one'")
        assert await prune_idempotency_keys(session, older_than=timedelta(days=1)) == 1
    assert await count_keys(connection) == 0
