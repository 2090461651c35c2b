import asyncio

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.integration.trouble import until_blocked, writes_held_up
from tests.support.application import assert_problem
from tests.support.flowers import KILLER, POISON, SETOSA

from iris_api.callers import ANONYMOUS_CALLER
from iris_api.database import IrisFeatures
from iris_api.errors import DatabaseUnavailable, NotStored, OutcomeUnknown
from iris_api.iris import ClassPrediction
from iris_api.recording.inserts import NewPrediction
from iris_api.settings import Settings


async def ask(client: AsyncClient, features: dict[str, float]) -> Response:
    return await client.post("/predict", json=features)


async def rows_in(connection: asyncpg.Connection) -> set[int]:
    return {row["id"] for row in await connection.fetch("SELECT id FROM iris_predictions")}


async def test_recorder_with_concurrent_requests_commits_them_in_groups(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    responses = await asyncio.gather(*(ask(client, SETOSA) for _ in range(100)))
    assert {response.json()["id"] for response in responses} == await rows_in(connection)
    transactions = await connection.fetchval(
        "SELECT count(DISTINCT xmin::text) FROM iris_predictions"
    )
    assert 1 <= transactions < 50


async def test_recorder_with_concurrent_requests_returns_each_its_own_row(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    questions = [{**SETOSA, "sepal_length": round(1 + n / 100, 2)} for n in range(200)]
    responses = await asyncio.gather(*(ask(client, question) for question in questions))
    for question, response in zip(questions, responses, strict=True):
        stored = await connection.fetchval(
            "SELECT sepal_length FROM iris_predictions WHERE id = $1", response.json()["id"]
        )
        assert stored == question["sepal_length"]


@pytest.mark.usefixtures("poisoned")
async def test_recorder_with_a_row_refused_by_postgresql_fails_only_that_row(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    questions = [POISON if n in {0, 13, 29} else SETOSA for n in range(30)]
    responses = await asyncio.gather(*(ask(client, question) for question in questions))
    statuses = [response.status_code for response in responses]
    assert statuses == [500 if question is POISON else 200 for question in questions]
    answered = {response.json()["id"] for response in responses if response.status_code == 200}
    assert answered == await rows_in(connection)


@pytest.mark.usefixtures("poisoned")
async def test_recorder_with_a_failing_half_keeps_the_committed_half(
    client: AsyncClient, settings: Settings, connection: asyncpg.Connection
) -> None:
    questions = [POISON, SETOSA, KILLER, SETOSA]
    responses = await asyncio.gather(*(ask(client, question) for question in questions))
    assert [response.status_code for response in responses] == [500, 200, 503, 503]
    # In a transaction of its own, as PgBouncer wants it, it was never told to commit.
    known = settings.database_pgbouncer
    assert_problem(responses[2], 503, "database-unavailable" if known else "outcome-unknown")
    assert {responses[1].json()["id"]} == await rows_in(connection)
    assert (await ask(client, SETOSA)).status_code == 200


@pytest.mark.usefixtures("poisoned")
async def test_recorder_with_an_unsent_half_raises_database_unavailable_for_it(
    app: FastAPI, settings: Settings, connection: asyncpg.Connection
) -> None:
    answer = ClassPrediction(0, "setosa", None, None)
    group = [
        NewPrediction(ANONYMOUS_CALLER, IrisFeatures(**features).as_row(), answer)
        for features in (POISON, KILLER, SETOSA, SETOSA)
    ]
    record = app.state.resources.recorder.record
    refused, killed, *unsent = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert isinstance(refused, NotStored)
    assert isinstance(refused.__cause__, asyncpg.RaiseError)
    known = settings.database_pgbouncer  # as above
    assert isinstance(killed, DatabaseUnavailable if known else OutcomeUnknown)
    assert list(map(type, unsent)) == [DatabaseUnavailable] * 2
    assert await rows_in(connection) == set()


async def test_recorder_with_an_unencodable_row_fails_only_that_row(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    row = IrisFeatures(**SETOSA).as_row()
    broken = NewPrediction(ANONYMOUS_CALLER, row, ClassPrediction(2**40, "setosa", None, None))
    record = app.state.resources.recorder.record
    neighbour = asyncio.create_task(ask(client, SETOSA))
    with pytest.raises(NotStored) as refused:
        await record(broken)
    assert isinstance(refused.value.__cause__, asyncpg.DataError)
    assert (await neighbour).status_code == 200
    assert len(await rows_in(connection)) == 1


@pytest.mark.usefixtures("poisoned")
async def test_predict_batch_with_a_refused_row_is_500_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    response = await client.post("/predict/batch", json={"items": [SETOSA, POISON, SETOSA]})
    assert response.status_code == 500
    assert await rows_in(connection) == set()


async def test_recorder_with_a_cancelled_request_stores_the_others_of_its_group(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    async with writes_held_up(connection):
        first, second, third = (asyncio.create_task(ask(client, SETOSA)) for _ in range(3))
        await until_blocked(connection)
        second.cancel()
    answered = {(await first).json()["id"], (await third).json()["id"]}
    assert_problem(await second, 503, "outcome-unknown")
    assert answered <= await rows_in(connection)


async def test_predict_waits_for_the_commit_of_its_group(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    async with writes_held_up(connection):
        call = asyncio.create_task(ask(client, SETOSA))
        await until_blocked(connection)
        assert not call.done()
    assert (await call).status_code == 200


async def test_recorder_aclose_finishes_accepted_requests(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    calls = [asyncio.create_task(ask(client, SETOSA)) for _ in range(20)]
    while not (await rows_in(connection)):
        await asyncio.sleep(0)
    await app.state.resources.recorder.aclose()
    responses = await asyncio.gather(*calls)
    answered = {response.json()["id"] for response in responses if response.status_code == 200}
    assert answered == await rows_in(connection)
    late = await ask(client, SETOSA)
    assert late.status_code == 503
    assert late.headers["Retry-After"]
