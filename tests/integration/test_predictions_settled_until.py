"""Who polls ``GET /predictions?since=`` with each answer's ``Settled-Until`` misses nothing."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
from httpx2 import AsyncClient
from tests.integration.trouble import until_blocked
from tests.support.flowers import SETOSA, VIRGINICA

SLOW = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.petal_width > 2 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER wait BEFORE INSERT ON iris_predictions FOR EACH ROW EXECUTE FUNCTION wait();
"""


async def export(client: AsyncClient, since: str, seen: set[int]) -> str:
    """Take what has come since then; return what to ask for next."""
    response = await client.get("/predictions", params={"since": since, "limit": 2})
    settled: str = response.headers["Settled-Until"]
    while True:
        assert response.status_code == 200
        seen |= {row["id"] for row in response.json()["items"]}
        if "next" not in response.links:
            return settled
        response = await client.get(response.links["next"]["url"])


async def test_predictions_since_settled_until_with_a_late_commit_misses_no_row(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await connection.execute(SLOW)
    await connection.execute("SELECT pg_advisory_lock(1)")
    batch = asyncio.create_task(
        client.post("/predict/batch", json={"items": [SETOSA, VIRGINICA, SETOSA]})
    )
    await until_blocked(connection)
    seen: set[int] = set()
    since = "2026-01-01T00:00:00Z"
    last = ""
    for _ in range(3):
        last = (await client.post("/predict", json=SETOSA)).json()["created_at"]
        since = await export(client, since, seen)
    assert len(seen) == 3
    await connection.execute("SELECT pg_advisory_unlock(1)")
    ids = {row["id"] for row in (await batch).json()["items"]}
    page = (await client.get("/predictions", params={"since": last})).json()
    assert not ids & {row["id"] for row in page["items"]}, "the time of the last one would not do"
    await export(client, since, seen)
    assert ids < seen
    assert len(seen) == 6


async def test_predictions_since_without_open_transactions_settles_until_a_second_ago(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    before = await connection.fetchval("SELECT now()")
    response = await client.get("/predictions", params={"since": "2026-01-01T00:00:00Z"})
    settled = datetime.fromisoformat(response.headers["Settled-Until"])
    assert before - timedelta(seconds=1) <= settled
    assert settled <= datetime.now(UTC)
    assert "Settled-Until" not in (await client.get("/predictions")).headers
