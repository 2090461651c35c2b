import asyncio

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.integration.trouble import until_blocked, writes_held_up
from tests.support.application import assert_problem
from tests.support.flowers import KILLER, POISON, SETOSA

from iris_api.callers import ANONYMOUS_CALLER, Caller
from iris_api.database import IrisFeatures
from iris_api.errors import DatabaseUnavailable, NotStored, OutcomeUnknown
from iris_api.iris import ClassPrediction
from iris_api.recording.rows import NewPrediction, StoredPrediction
from iris_api.settings import Settings


async def ask(client: AsyncClient, features: dict[str, float]) -> Response:
    return await client.post("/predict", json=features)


async def rows_in(connection: asyncpg.Connection) -> set[str]:
    return {str(row["id"]) for row in await connection.fetch("SELECT id FROM iris_predictions")}


def new(features: dict[str, float], prediction: int = 0) -> NewPrediction:
    answer = ClassPrediction(prediction, "setosa", None, None)
    return NewPrediction(ANONYMOUS_CALLER, IrisFeatures(**features).as_row(), answer)


UNENCODABLE = new(SETOSA, 2**40)
"""No integer of PostgreSQL holds its class, so its whole group is refused before it is sent."""


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
    app: FastAPI, client: AsyncClient, settings: Settings, connection: asyncpg.Connection
) -> None:
    group = [UNENCODABLE, new(SETOSA), new(KILLER), new(SETOSA)]
    record = app.state.resources.recorder.record
    refused, stored, *lost = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert isinstance(refused, NotStored)
    assert isinstance(stored, StoredPrediction)
    # In a transaction of its own, as PgBouncer wants it, it was never told to commit.
    known = settings.database_pgbouncer
    assert list(map(type, lost)) == [DatabaseUnavailable if known else OutcomeUnknown] * 2
    assert {str(stored.id)} == await rows_in(connection)
    assert (await ask(client, SETOSA)).status_code == 200


@pytest.mark.usefixtures("poisoned")
async def test_recorder_with_an_unsent_half_raises_database_unavailable_for_it(
    app: FastAPI, settings: Settings, connection: asyncpg.Connection
) -> None:
    group = [UNENCODABLE, new(KILLER), new(SETOSA), new(SETOSA)]
    record = app.state.resources.recorder.record
    refused, killed, *unsent = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert isinstance(refused, NotStored)
    assert isinstance(refused.__cause__, asyncpg.DataError)
    known = settings.database_pgbouncer  # as above
    assert isinstance(killed, DatabaseUnavailable if known else OutcomeUnknown)
    assert list(map(type, unsent)) == [DatabaseUnavailable] * 2
    assert await rows_in(connection) == set()


async def test_recorder_with_an_unencodable_row_fails_only_that_row(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    """Its neighbour is the first row of an ML model: PostgreSQL has never been asked of it."""
    record = app.state.resources.recorder.record
    neighbour = asyncio.create_task(ask(client, SETOSA))
    with pytest.raises(NotStored) as refused:
        await record(UNENCODABLE)
    assert isinstance(refused.value.__cause__, asyncpg.DataError)
    assert (await neighbour).status_code == 200
    assert len(await rows_in(connection)) == 1


FIRST = NewPrediction(
    Caller("newcomer", frozenset()),
    IrisFeatures(**SETOSA).as_row(),
    ClassPrediction(0, "a", None, "m"),
)
"""The first row of its client and of its ML model."""


@pytest.mark.usefixtures("poisoned")
async def test_recorder_with_a_refused_row_stores_the_first_row_of_a_client_beside_it(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    record = app.state.resources.recorder.record
    group = [new(POISON), UNENCODABLE, FIRST, new(SETOSA), FIRST]
    outcomes = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert list(map(type, outcomes)) == [NotStored] * 2 + [StoredPrediction] * 3
    stored = [one for one in outcomes if isinstance(one, StoredPrediction)]
    assert {str(one.id) for one in stored} == await rows_in(connection)
    assert (await client.get("/readyz")).status_code == 200


async def test_recorder_with_a_client_that_cannot_be_named_fails_only_its_rows(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await connection.execute("""
        CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER hide BEFORE INSERT ON clients FOR EACH ROW EXECUTE FUNCTION hide();
    """)
    record = app.state.resources.recorder.record
    group = [UNENCODABLE, FIRST, new(SETOSA)]
    refused, unnamed, known = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert isinstance(refused, NotStored)
    assert isinstance(unnamed, DatabaseUnavailable)
    assert isinstance(known, StoredPrediction)
    assert {str(known.id)} == await rows_in(connection)
    with pytest.raises(DatabaseUnavailable, match="triggers"):
        await record(FIRST)
    assert_problem(await client.get("/readyz"), 503, "not-ready")
    await connection.execute("DROP TRIGGER hide ON clients")
    await record(FIRST)
    assert (await client.get("/readyz")).status_code == 200


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
