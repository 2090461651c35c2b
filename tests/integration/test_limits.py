"""How much the service takes on at once, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.integration.support import (
    SETOSA,
    VIRGINICA,
    Held,
    assert_problem,
    client_of,
    count_rows,
    metric,
    running,
    started,
    until_blocked,
    writes_held_up,
)

from iris_api.settings import Settings

UNTOUCHED = ("/livez", "/readyz", "/metrics")


def ask(client: AsyncClient, flower: dict[str, float] = SETOSA) -> "asyncio.Task[Response]":
    return asyncio.create_task(client.post("/predict", json=flower))


async def until_at_work(app: FastAPI, count: int) -> None:
    """Return when so many requests are at work."""
    limits = _limits_of(app)
    async with asyncio.timeout(10):
        while len(limits.requests) != count:
            await asyncio.sleep(0)


def _limits_of(app: FastAPI) -> Any:
    [limits] = [one.kwargs["limits"] for one in app.user_middleware if "limits" in one.kwargs]
    return limits


async def assert_idle(app: FastAPI) -> None:
    """Fail where something of a request that has ended is left."""
    limits = _limits_of(app)
    assert (limits.requests, limits.held_bytes) == ({}, 0)
    in_use = app.state.metrics.connections_in_use._value
    async with asyncio.timeout(10):
        while in_use.get():  # a group outlives the callers that were told to go
            await asyncio.sleep(0.01)


@asynccontextmanager
async def changed(settings: Settings, **changes: object) -> AsyncIterator[tuple[FastAPI, Any]]:
    """An application with other settings, and its client."""
    async with (
        started(settings.model_copy(update=changes)) as app,
        client_of(app) as client,
    ):
        yield app, client
        await assert_idle(app)


async def test_past_the_requests_at_work_others_are_refused_but_probes_pass(
    settings: Settings, connection: asyncpg.Connection, held: Held
) -> None:
    async with changed(settings, max_in_flight=3) as (app, client):
        taken = [ask(client) for _ in range(3)]
        await until_at_work(app, 3)
        for response in [
            await client.post("/predict", json=SETOSA),
            await client.post("/predict/batch", json={"items": [SETOSA]}),
            await client.get("/predictions"),
            await client.get("/model"),
        ]:
            assert "3 requests" in assert_problem(response, 503, "overloaded")["detail"]
        for path in UNTOUCHED:
            assert (await client.get(path)).status_code == 200
        held.released.set()
        assert [(await call).status_code for call in taken] == [200] * 3
        assert (await client.get("/predictions")).status_code == 200
    assert await count_rows(connection) == 3


async def test_a_request_that_was_refused_is_counted_and_has_an_id(
    settings: Settings, held: Held
) -> None:
    async with changed(settings, max_in_flight=1) as (app, client):
        taken = ask(client)
        await until_at_work(app, 1)
        response = await client.post("/predict", json=SETOSA, headers={"X-Request-ID": "mine"})
        assert assert_problem(response, 503, "overloaded")["request_id"] == "mine"
        held.released.set()
        assert (await taken).status_code == 200
        assert await metric(client, "iris_http_requests_total") == 2


async def in_parts(parts: "asyncio.Queue[bytes | None]") -> AsyncIterator[bytes]:
    """A body without a length, as the test gives it."""
    while part := await parts.get():
        yield part


def begin(client: AsyncClient, parts: "asyncio.Queue[bytes | None]") -> "asyncio.Task[Response]":
    headers = {"Content-Type": "application/json"}
    return asyncio.create_task(client.post("/predict", content=in_parts(parts), headers=headers))


async def until_held(app: FastAPI, count: int) -> None:
    limits = _limits_of(app)
    async with asyncio.timeout(10):
        while limits.held_bytes != count:
            await asyncio.sleep(0)


async def test_past_the_bytes_that_are_held_bodies_are_refused(settings: Settings) -> None:
    async with changed(settings, max_buffered_bytes=1024) as (app, client):
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        slow = begin(client, parts)
        parts.put_nowait(b" " * 1000)
        await until_held(app, 1000)
        # One that says how long it is, and one that does not.
        bodies: list[dict[str, Any]] = [
            {"json": SETOSA},
            {"content": in_parts(_filled(b" " * 30))},
        ]
        for body in bodies:
            headers = {"Content-Type": "application/json"}
            response = await client.post("/predict", headers=headers, **body)
            assert "bodies" in assert_problem(response, 503, "overloaded")["detail"]
        await until_held(app, 1000)
        assert (await client.get("/predictions")).status_code == 200
        parts.put_nowait(b"{}")
        parts.put_nowait(None)
        assert_problem(await slow, 422, "invalid-request")
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


def _filled(*chunks: bytes) -> "asyncio.Queue[bytes | None]":
    parts: asyncio.Queue[bytes | None] = asyncio.Queue()
    for chunk in (*chunks, None):
        parts.put_nowait(chunk)
    return parts


async def test_a_body_that_is_held_while_its_answer_is_made_counts(
    settings: Settings, held: Held
) -> None:
    async with changed(settings, max_buffered_bytes=1024) as (_, client):
        first = ask(client)
        batch = {"items": [SETOSA] * 13}  # fits alone, but not beside another flower
        await held.wait_until_entered()
        assert_problem(await client.post("/predict/batch", json=batch), 503, "overloaded")
        held.released.set()
        assert (await first).status_code == 200
        assert (await client.post("/predict/batch", json=batch)).status_code == 200


async def test_a_client_that_leaves_gives_its_bytes_back(settings: Settings) -> None:
    async with changed(settings, max_buffered_bytes=1024) as (app, client):
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        slow = begin(client, parts)
        parts.put_nowait(b" " * 1000)
        await until_held(app, 1000)
        slow.cancel()
        await asyncio.wait([slow])
        await until_held(app, 0)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_a_deployment_may_take_fewer_flowers_at_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with changed(settings, max_batch_items=3) as (_, client):
        for count, status in [(3, 200), (4, 422), (100, 422)]:
            response = await client.post("/predict/batch", json={"items": [SETOSA] * count})
            assert response.status_code == status
        body = assert_problem(response, 422, "invalid-request", field="items")
    assert body["errors"][0]["in"] == "body"
    assert "3" in body["detail"]
    assert await count_rows(connection) == 3


async def test_a_deployment_may_show_fewer_predictions_at_once(settings: Settings) -> None:
    async with changed(settings, max_page_items=60) as (_, client):
        assert (await client.get("/predictions", params={"limit": 60})).status_code == 200
        response = await client.get("/predictions", params={"limit": 61})
        body = assert_problem(response, 422, "invalid-request", field="limit")
    assert body["errors"][0]["in"] == "query"
    assert "60" in body["detail"]


async def test_a_page_without_a_limit_fits_any_deployment(settings: Settings) -> None:
    """The client has not asked for too much: it has not asked for any number at all."""
    async with changed(settings, max_page_items=3) as (_, client):
        await client.post("/predict/batch", json={"items": [SETOSA] * 5})
        response = await client.get("/predictions")
        assert response.status_code == 200
        assert len(response.json()["items"]) == 3


SLOW = {
    "request_timeout": 0.5,
    "database_lock_timeout": 20.0,
    "database_command_timeout": 20.0,
}
"""Requests that end before PostgreSQL does."""


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA] * 3})]
)
@pytest.mark.parametrize("key", [None, "mine"])
async def test_what_is_overdue_may_have_been_stored_and_its_key_finds_out(
    settings: Settings,
    connection: asyncpg.Connection,
    path: str,
    body: dict[str, Any],
    key: str | None,
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    async with changed(settings, **SLOW) as (_, client):
        async with writes_held_up(connection):
            response = await client.post(path, json=body, headers=headers)
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


async def test_a_slow_model_does_not_hold_its_callers_for_ever(
    settings: Settings, connection: asyncpg.Connection, held: Held
) -> None:
    async with changed(settings, request_timeout=0.3) as (_, client):
        response = await client.post("/predict", json=SETOSA)
        body = assert_problem(response, 503, "deadline-exceeded")
        assert "Nothing was stored" in body["detail"]
        assert (await client.get("/predictions")).status_code == 200
        held.released.set()
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert await count_rows(connection) == 1, "nobody waited for the first one any more"


@pytest.mark.parametrize("path", ["/predictions", "/predictions/1"])
async def test_a_read_that_is_overdue_says_so_and_harmed_nothing(
    settings: Settings, connection: asyncpg.Connection, path: str
) -> None:
    async with changed(settings, **SLOW, database_pool_size=2) as (_, client):
        await client.post("/predict", json=SETOSA)
        lock = connection.transaction()
        await lock.start()
        await connection.execute("LOCK iris_predictions IN ACCESS EXCLUSIVE MODE")
        responses = await asyncio.gather(*(client.get(path) for _ in range(4)))
        for response in responses:
            assert "0.5 s" in assert_problem(response, 503, "deadline-exceeded")["detail"]
        await lock.rollback()
        for _ in range(4):
            assert (await client.get(path)).status_code == 200


async def test_a_statement_of_an_overdue_read_does_not_stay_behind(
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


async def test_overdue_callers_do_not_harm_the_group_that_holds_their_rows(
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
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        await assert_idle(app)
        rows = await connection.fetch("SELECT prediction_label FROM iris_predictions")
        labels = [row["prediction_label"] for row in rows]
        assert labels.count("setosa") == 4  # the group's, which was under way, and the last one


async def test_a_cancelled_caller_leaves_its_neighbours_their_answers(
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


async def test_requests_that_are_in_time_are_left_alone(settings: Settings) -> None:
    async with changed(settings, request_timeout=0.3) as (_, client):
        async with asyncio.timeout(30):
            for _ in range(5):
                responses = await asyncio.gather(*(ask(client) for _ in range(20)))
                assert {response.status_code for response in responses} == {200}
                await asyncio.sleep(0.1)  # so that some have begun before the watch looks


async def test_a_body_that_does_not_come_is_told_apart_from_an_answer_that_does_not(
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
