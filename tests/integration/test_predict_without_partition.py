"""Predictions past the last month: refused before the ML model runs, and told to operators."""

import asyncio
import time

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from tests.integration.states import PARTS, checks
from tests.support.application import assert_problem, count_rows, metric
from tests.support.flowers import SETOSA
from tests.support.months import remake_months

BOTH = pytest.mark.parametrize(
    ("path", "body"), [("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA, SETOSA]})]
)


async def inferences(client: AsyncClient) -> float:
    return await metric(client, "iris_inference_rows_count")


@BOTH
async def test_predict_past_the_last_month_is_503_without_inference_once_readyz_has_seen_it(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: object
) -> None:
    await remake_months(connection, ago=2, ahead=-1)
    assert (await checks(client))["database"] == "failed"
    problem = assert_problem(await client.post(path, json=body), 503, "database-unavailable")
    assert "`iris-api partitions ensure`" in problem["detail"]
    assert "Nothing was stored." in problem["detail"]
    assert await inferences(client) == 0
    assert await metric(client, "iris_partition_months_ahead") == -1


@BOTH
async def test_predict_past_the_last_month_is_503_and_the_next_one_without_inference(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: object
) -> None:
    await remake_months(connection, ago=2, ahead=-1)
    first = assert_problem(await client.post(path, json=body), 503, "database-unavailable")
    assert await inferences(client) == 1
    second = assert_problem(await client.post(path, json=body), 503, "database-unavailable")
    assert await inferences(client) == 1
    assert first["detail"] == second["detail"]


async def test_predict_is_200_within_5_seconds_of_the_next_month_without_a_readiness_check(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await remake_months(connection, ago=2, ahead=-1)
    assert_problem(await client.post("/predict", json=SETOSA), 503, "database-unavailable")
    await remake_months(connection, ago=0, ahead=0)
    deadline = time.monotonic() + 5
    while (response := await client.post("/predict", json=SETOSA)).status_code == 503:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert response.status_code == 200
    assert await count_rows(connection) == 1


async def test_predict_is_503_when_the_months_end_by_postgresqls_clock_since_the_last_check(
    app: FastAPI, client: AsyncClient
) -> None:
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    horizon = app.state.resources.horizon
    assert await checks(client) == dict.fromkeys(PARTS, "ok")
    assert not horizon.is_passed
    horizon._ends_at = time.monotonic()
    assert_problem(await client.post("/predict", json=SETOSA), 503, "database-unavailable")
    assert await inferences(client) == 1


@pytest.mark.parametrize("ahead", [0, 2, 3, 24])
async def test_readyz_with_fewer_than_three_months_ahead_is_200_and_says_what_to_run(
    client: AsyncClient, connection: asyncpg.Connection, ahead: int
) -> None:
    await remake_months(connection, ago=0, ahead=ahead)
    assert await checks(client) == dict.fromkeys(PARTS, "ok")
    detail = (await client.get("/readyz")).json()["checks"]["schema"]["detail"]
    assert ("`iris-api partitions ensure`" in detail) == (ahead < 3)
    assert (f"Only {ahead} more" in detail) == (ahead < 3)
    assert await metric(client, "iris_partition_months_ahead") == ahead
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
