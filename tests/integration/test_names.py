"""The first row of a client or an ML model names it, whoever else does so at the same time."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.integration.repeats import BATCH
from tests.support.application import (
    assert_problem,
    client_of,
    count_rows,
    make_key,
    started,
)
from tests.support.flowers import SETOSA

from iris_api.settings import Settings

NAMES = [f"client-{number}" for number in range(12)]
WAITING = "SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
"""Who waits for the end of this transaction."""


@pytest.fixture
async def two_services(keyed: Settings) -> AsyncIterator[tuple[FastAPI, FastAPI]]:
    async with started(keyed) as one, started(keyed) as other:
        yield one, other


async def ask_as_each(app: FastAPI, keys: list[dict[str, str]], body: object) -> list[Response]:
    path = "/predict" if body is SETOSA else "/predict/batch"
    async with client_of(app) as client:
        return await asyncio.gather(
            *(client.post(path, json=body, headers=key) for key in keys for _ in range(3))
        )


@pytest.mark.parametrize(("body", "rows"), [(SETOSA, 1), (BATCH, 3)])
async def test_predict_of_new_clients_by_two_services_at_once_names_each_once(
    two_services: tuple[FastAPI, FastAPI],
    keyed: Settings,
    connection: asyncpg.Connection,
    body: object,
    rows: int,
) -> None:
    one, other = two_services
    keys = [await make_key(keyed, name) for name in NAMES]
    both = await asyncio.gather(ask_as_each(one, keys, body), ask_as_each(other, keys[::-1], body))
    answers = [answer for answers in both for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    assert await count_rows(connection) == rows * len(answers)
    named = await connection.fetch("SELECT name FROM clients WHERE name <> 'anonymous'")
    assert sorted(row["name"] for row in named) == sorted(NAMES)
    assert await connection.fetchval("SELECT count(version) FROM models") == 1
    per_client = await connection.fetch("SELECT count(*) FROM iris_predictions GROUP BY client_id")
    assert {row["count"] for row in per_client} == {rows * 3 * 2}
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await connection.fetchval(deadlocks) == 0


@pytest.mark.parametrize(("path", "body"), [("/predict", SETOSA), ("/predict/batch", BATCH)])
async def test_predict_while_another_transaction_names_its_client_waits_and_readyz_is_200(
    keyed: Settings, connection: asyncpg.Connection, path: str, body: object
) -> None:
    key = await make_key(keyed, "newcomer")
    async with started(keyed) as app, client_of(app) as client:
        async with connection.transaction():
            await connection.execute("INSERT INTO clients (name) VALUES ('newcomer')")
            answer = asyncio.create_task(client.post(path, json=body, headers=key))
            await until_waiting(connection)
            assert (await client.get("/readyz")).status_code == 200
            assert not answer.done()
        assert (await answer).status_code == 200


async def until_waiting(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(10):
        while not await connection.fetch(WAITING):
            await asyncio.sleep(0.01)


async def test_predict_after_its_client_and_model_were_deleted_names_them_anew(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    """As by a restore of other tables: nothing is cached."""
    for path, body in (("/predict", SETOSA), ("/predict/batch", BATCH)) * 2:
        assert (await client.post(path, json=body)).status_code == 200
        await connection.execute("DELETE FROM clients; DELETE FROM models WHERE id > 1")
    assert await count_rows(connection) == 8


@pytest.mark.parametrize(("path", "body"), [("/predict", SETOSA), ("/predict/batch", BATCH)])
async def test_predict_with_an_ml_model_that_is_known_with_other_labels_is_500_not_stored(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: object
) -> None:
    version = (await client.get("/model")).json()["version"]
    await connection.execute(
        "INSERT INTO models (version, labels) VALUES ($1, '{virginica,versicolor,setosa}')", version
    )
    detail = assert_problem(await client.post(path, json=body), 500, "not-stored")["detail"]
    assert f"models has other labels for the ML model {version}" in detail
    assert await count_rows(connection) == 0
    await connection.execute("DELETE FROM models WHERE version = $1", version)
    assert (await client.post(path, json=body)).status_code == 200
