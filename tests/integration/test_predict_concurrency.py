import asyncio

import asyncpg
from httpx2 import AsyncClient, Response
from tests.support.application import Held, assert_problem, count_rows
from tests.support.flowers import SETOSA, VIRGINICA

FLOWERS = [
    {**(SETOSA if index % 2 else VIRGINICA), "sepal_length": 5 + index / 1000}
    for index in range(200)
]


def ask(client: AsyncClient, flower: dict[str, float]) -> "asyncio.Task[Response]":
    return asyncio.create_task(client.post("/predict", json=flower))


async def test_predict_with_200_concurrent_requests_returns_each_its_own_row(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    responses = await asyncio.gather(*(ask(client, flower) for flower in FLOWERS))
    answers = [response.json() for response in responses]
    assert [response.status_code for response in responses] == [200] * len(FLOWERS)
    assert len({answer["id"] for answer in answers}) == len(FLOWERS)
    for index, (flower, answer) in enumerate(zip(FLOWERS, answers, strict=True)):
        assert answer["prediction_label"] == ("setosa" if index % 2 else "virginica")
        row = await connection.fetchrow(
            "SELECT * FROM iris_predictions WHERE id = $1", answer["id"]
        )
        assert row is not None
        assert {name: row[name] for name in flower} == flower
        assert row["prediction_label"] == answer["prediction_label"]
    assert await count_rows(connection) == len(FLOWERS)


async def test_predict_with_cancelled_concurrent_requests_completes_the_others(
    client: AsyncClient, connection: asyncpg.Connection, held: Held
) -> None:
    first = ask(client, SETOSA)
    await held.wait_until_entered()
    waiting = [ask(client, flower) for flower in FLOWERS]
    for _ in range(10):  # turns of the event loop, so that all stand in line
        await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    held.released.set()
    async with asyncio.timeout(30):
        stayed = await asyncio.gather(first, *waiting[1::2])
        left = await asyncio.gather(*waiting[::2])
    for response in left:
        assert_problem(response, 503, "deadline-exceeded")
    assert {response.status_code for response in stayed} == {200}
    for flower, response in zip(FLOWERS[1::2], stayed[1:], strict=True):
        stored = (await client.get(response.headers["Content-Location"])).json()
        assert stored == {**response.json(), **flower, "reference": None}
    assert await count_rows(connection) >= len(stayed)


async def test_livez_readyz_and_reads_while_the_model_computes_are_200(
    client: AsyncClient, held: Held
) -> None:
    slow = ask(client, SETOSA)
    await held.wait_until_entered()
    async with asyncio.timeout(30):
        for path in ("/livez", "/readyz", "/predictions", "/model", "/metrics"):
            assert (await client.get(path)).status_code == 200
    assert not slow.done()
    held.released.set()
    async with asyncio.timeout(30):
        assert (await slow).status_code == 200


async def test_predict_while_the_model_computes_holds_no_database_connection(
    client: AsyncClient, connection: asyncpg.Connection, held: Held
) -> None:
    slow = ask(client, SETOSA)
    await held.wait_until_entered()
    busy = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'iris-api' AND state <> 'idle'"
    )
    held.released.set()
    assert (await slow).status_code == 200
    assert busy == 0
