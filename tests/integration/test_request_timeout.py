"""How long the service takes over a request, and what becomes of one that is overdue."""

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.integration.bounds import (
    ask,
    assert_idle,
    begin,
    bound_requests,
    changed,
    until_at_work,
)
from tests.integration.trouble import until_blocked, writes_held_up
from tests.support.application import Held, assert_problem, count_rows, running
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.settings import Settings

SLOW = {
    "request_timeout": 0.5,
    "database_lock_timeout": 20.0,
    "database_command_timeout": 20.0,
}
"""Requests that end before PostgreSQL does."""
LONG = 60


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA] * 3})]
)
@pytest.mark.parametrize("key", [None, "mine"])
async def test_predict_past_the_request_timeout_is_503_and_its_idempotency_key_stores_once(
    settings: Settings,
    connection: asyncpg.Connection,
    path: str,
    body: dict[str, Any],
    key: str | None,
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    async with changed(settings, **SLOW) as (app, client):
        async with writes_held_up(connection):
            response = await client.post(path, json=body, headers=headers)
        bound_requests(app, LONG)
        if "items" in body:  # its transaction was never told to commit
            detail = assert_problem(response, 503, "deadline-exceeded")["detail"]
            assert "Nothing was stored" in detail
            assert await count_rows(connection) == 0
        else:
            detail = assert_problem(response, 503, "outcome-unknown")["detail"]
            assert "Idempotency-Key" in detail
        assert "0.5 s" in detail
        again = await client.post(path, json=body, headers=headers)
        assert again.status_code == 200
        is_known = key or "items" in body
        once = 3 if "items" in body else 1
        assert await count_rows(connection) in ({once} if is_known else {once, 2 * once})


async def test_predict_with_a_slow_model_past_the_request_timeout_is_503_and_stores_nothing(
    settings: Settings, connection: asyncpg.Connection, held: Held
) -> None:
    async with changed(settings, request_timeout=0.3) as (app, client):
        response = await client.post("/predict", json=SETOSA)
        body = assert_problem(response, 503, "deadline-exceeded")
        assert "Nothing was stored" in body["detail"]
        bound_requests(app, LONG)
        assert (await client.get("/predictions")).status_code == 200
        held.released.set()
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert await count_rows(connection) == 1, "nobody waited for the first one any more"


@pytest.mark.parametrize("path", ["/predictions", "/predictions/1"])
async def test_predictions_past_the_request_timeout_is_503_and_later_is_200(
    settings: Settings, connection: asyncpg.Connection, path: str
) -> None:
    async with changed(settings, **SLOW, database_pool_size=2) as (app, client):
        bound_requests(app, LONG)
        stored = (await client.post("/predict", json=SETOSA)).json()
        path = path.replace("1", stored["id"])
        bound_requests(app, 0.5)
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK iris_predictions IN ACCESS EXCLUSIVE MODE")
        responses = await asyncio.gather(*(client.get(path) for _ in range(4)))
        for response in responses:
            assert_problem(response, 503, "deadline-exceeded")
        await lock.rollback()
        bound_requests(app, LONG)
        for _ in range(4):
            assert (await client.get(path)).status_code == 200


async def test_predictions_past_the_request_timeout_ends_its_statement(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with changed(settings, **SLOW) as (_, client):
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK iris_predictions IN ACCESS EXCLUSIVE MODE")
        assert_problem(await client.get("/predictions"), 503, "deadline-exceeded")
        async with asyncio.timeout(10):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'iris-api' AND state = 'active'"
            ):
                await asyncio.sleep(0.05)
        await lock.rollback()


async def test_predict_past_the_request_timeout_still_commits_its_group(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with changed(settings, **SLOW) as (app, client):
        async with writes_held_up(connection):
            early = [ask(client) for _ in range(3)]
            await until_blocked(connection)
            late = [ask(client, VIRGINICA) for _ in range(3)]
            for call in early:
                assert_problem(await call, 503, "outcome-unknown")
        for call in late:
            response = await call
            if response.status_code != 200:  # it never began, or the lock was released too late
                slug = response.json()["type"].rpartition(":")[2]
                assert slug in {"deadline-exceeded", "outcome-unknown"}
                assert_problem(response, 503, slug)
        bound_requests(app, LONG)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        await assert_idle(app)
        rows = await connection.fetch("SELECT prediction_label FROM iris_predictions")
        labels = [row["prediction_label"] for row in rows]
        assert labels.count("setosa") == 4  # the group's, which was under way, and the last one


async def test_predict_with_a_cancelled_request_in_its_group_is_200(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with changed(settings) as (app, client):
        async with writes_held_up(connection):
            first, second, third = (ask(client) for _ in range(3))
            await until_blocked(connection)
            second.cancel()
            await asyncio.wait([second])
            await until_at_work(app, 2)
        assert {(await call).status_code for call in (first, third)} == {200}


async def test_predict_within_the_request_timeout_is_200(settings: Settings) -> None:
    async with changed(settings, request_timeout=LONG) as (_, client):
        async with asyncio.timeout(LONG):
            for _ in range(5):
                responses = await asyncio.gather(*(ask(client) for _ in range(20)))
                assert {response.status_code for response in responses} == {200}
                await asyncio.sleep(0.1)  # so that some have begun before the watch looks


async def test_predict_with_an_incomplete_body_past_the_request_timeout_is_408(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    """Nothing can have been stored, so the client need not ask whether it was."""
    async with running(settings.model_copy(update={"request_timeout": 0.3})) as client:
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        call = begin(client, parts)
        parts.put_nowait(b"{")
        response = await call
        assert_problem(response, 408, "request-timeout")
        assert response.headers["Connection"] == "close"
    assert await count_rows(connection) == 0
