"""How much the service takes on at once."""

import asyncio
from typing import Any

import asyncpg
from fastapi import FastAPI
from tests.integration.bounds import ask, begin, changed, in_parts, limits_of, until_at_work
from tests.support.application import Held, assert_problem, count_rows, metric
from tests.support.flowers import SETOSA

from iris_api.settings import Settings

UNTOUCHED = ("/livez", "/readyz", "/metrics")


async def test_routes_over_max_in_flight_are_503_and_probes_are_200(
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


async def test_predict_over_max_in_flight_is_counted_and_has_a_request_id(
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


async def until_held(app: FastAPI, count: int) -> None:
    limits = limits_of(app)
    async with asyncio.timeout(10):
        while limits.held_bytes != count:
            await asyncio.sleep(0)


async def test_predict_over_max_buffered_bytes_is_503(settings: Settings) -> None:
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


async def test_predict_batch_over_max_buffered_bytes_with_a_running_request_is_503(
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


async def test_predict_of_a_disconnected_client_releases_its_buffered_bytes(
    settings: Settings,
) -> None:
    async with changed(settings, max_buffered_bytes=1024) as (app, client):
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        slow = begin(client, parts)
        parts.put_nowait(b" " * 1000)
        await until_held(app, 1000)
        slow.cancel()
        await asyncio.wait([slow])
        await until_held(app, 0)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_predict_batch_over_max_batch_items_is_422(
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


async def test_predictions_with_limit_over_max_page_items_is_422(settings: Settings) -> None:
    async with changed(settings, max_page_items=60) as (_, client):
        assert (await client.get("/predictions", params={"limit": 60})).status_code == 200
        response = await client.get("/predictions", params={"limit": 61})
        body = assert_problem(response, 422, "invalid-request", field="limit")
    assert body["errors"][0]["in"] == "query"
    assert "60" in body["detail"]


async def test_predictions_without_limit_returns_at_most_max_page_items(settings: Settings) -> None:
    """The client has not asked for too much: it has not asked for any number at all."""
    async with changed(settings, max_page_items=3) as (_, client):
        await client.post("/predict/batch", json={"items": [SETOSA] * 5})
        response = await client.get("/predictions")
        assert response.status_code == 200
        assert len(response.json()["items"]) == 3
