"""The line of a request in the log: whose it was, and which rows it stored."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from tests.support.application import client_of, make_key, running
from tests.support.flowers import POISON, SETOSA, VIRGINICA

from iris_api.observability.standard_error import drain
from iris_api.settings import Settings

LineOf = Callable[[str], Awaitable[dict[str, Any]]]
BATCH = {"items": [SETOSA, VIRGINICA, SETOSA]}
OF_ROWS = {"id", "first_id", "last_id", "count", "replayed"}


@pytest.fixture
def line_of(capfd: pytest.CaptureFixture[str]) -> LineOf:
    """The line of the request with this id, of those since the last call."""

    async def line_of(request_id: str) -> dict[str, Any]:
        await asyncio.sleep(0)  # the lines of one turn of the loop are written at its end
        drain()
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "{" in line]
        found: list[dict[str, Any]] = [
            line
            for line in lines
            if line["event"] == "request" and line["request_id"] == request_id
        ]
        assert len(found) == 1
        return found[0]

    return line_of


NEWEST = "SELECT id::text FROM iris_predictions ORDER BY id DESC LIMIT 1"


async def test_predict_logs_the_id_of_the_stored_row_and_the_peer(
    client: AsyncClient, connection: asyncpg.Connection, line_of: LineOf
) -> None:
    await client.post("/predict", json=SETOSA)
    response = await client.post("/predict", json=SETOSA, headers={"X-Request-ID": "mine"})
    line = await line_of("mine")
    assert line["id"] == response.json()["id"]
    assert await connection.fetchval(NEWEST) == line["id"]
    assert line["peer"] == "127.0.0.1"
    assert OF_ROWS & line.keys() == {"id"}
    assert "client" not in line


async def test_predict_batch_logs_the_first_and_last_id_and_the_count(
    client: AsyncClient, line_of: LineOf
) -> None:
    response = await client.post("/predict/batch", json=BATCH, headers={"X-Request-ID": "mine"})
    ids = [item["id"] for item in response.json()["items"]]
    line = await line_of("mine")
    assert (line["first_id"], line["last_id"], line["count"]) == (ids[0], ids[-1], len(ids))
    assert OF_ROWS & line.keys() == {"first_id", "last_id", "count"}


@pytest.mark.parametrize(
    ("path", "body", "name"), [("/predict", SETOSA, "id"), ("/predict/batch", BATCH, "first_id")]
)
async def test_predict_with_a_repeated_idempotency_key_logs_the_first_row_and_that_it_was_replayed(
    client: AsyncClient, line_of: LineOf, path: str, body: object, name: str
) -> None:
    lines = []
    for request_id in ("first", "second"):
        headers = {"Idempotency-Key": "mine", "X-Request-ID": request_id}
        assert (await client.post(path, json=body, headers=headers)).status_code == 200
        lines.append(await line_of(request_id))
    first, second = lines
    assert "replayed" not in first
    assert second["replayed"] is True
    assert second[name] == first[name]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/predict", {}, "invalid-request"),
        ("/predict", POISON, "not-stored"),
        ("/predict/batch", {"items": [SETOSA, POISON]}, "not-stored"),
    ],
)
async def test_predict_that_is_refused_logs_the_problem_and_no_id(
    client: AsyncClient, line_of: LineOf, path: str, body: object, problem: str
) -> None:
    await client.post(path, json=body, headers={"X-Request-ID": "mine"})
    line = await line_of("mine")
    assert line["problem"] == problem
    assert not OF_ROWS & line.keys()


@pytest.mark.parametrize("path", ["/predictions", "/predict"])
async def test_requests_with_an_api_key_log_its_client(
    guarded: FastAPI, keyed: Settings, line_of: LineOf, path: str
) -> None:
    headers = await make_key(keyed, 'Zoë, of the "lab"') | {"X-Request-ID": "mine"}
    async with client_of(guarded) as client:
        if path == "/predict":
            await client.post(path, json=SETOSA, headers=headers)
        else:
            await client.get(path, headers=headers)
    assert (await line_of("mine"))["client"] == 'Zoë, of the "lab"'


async def test_requests_without_a_valid_api_key_log_no_client(
    guarded: FastAPI, line_of: LineOf
) -> None:
    async with client_of(guarded) as client:
        for headers in ({}, {"Authorization": "Bearer iris_unknown"}):
            await client.get("/model", headers={**headers, "X-Request-ID": "mine"})
            line = await line_of("mine")
            assert (line["status"], line["problem"]) == (401, "unauthorized")
            assert "client" not in line


async def test_a_request_over_the_rate_limit_logs_its_client(
    keyed: Settings, line_of: LineOf
) -> None:
    headers = await make_key(keyed, "eager") | {"X-Request-ID": "mine"}
    async with running(keyed.model_copy(update={"rate_limit": 1})) as client:
        await client.get("/model", headers=headers)
        await line_of("mine")
        assert (await client.get("/model", headers=headers)).status_code == 429
    assert (await line_of("mine"))["client"] == "eager"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_that_succeed_are_logged_at_debug(
    client: AsyncClient, line_of: LineOf, path: str
) -> None:
    assert (await client.get(path, headers={"X-Request-ID": "mine"})).status_code == 200
    assert (await line_of("mine"))["level"] == "debug"


async def test_readyz_that_fails_is_logged_at_info(settings: Settings, line_of: LineOf) -> None:
    other = settings.model_copy(update={"database_connect_timeout": 0.000_001})
    async with running(other) as client:
        assert (await client.get("/readyz", headers={"X-Request-ID": "mine"})).status_code == 503
    line = await line_of("mine")
    assert (line["level"], line["problem"]) == ("info", "not-ready")
