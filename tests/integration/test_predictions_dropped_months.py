"""What clients see of a month that is dropped: its rows are gone, and nothing else is."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from tests.integration.repeats import BATCH, EITHER, ask
from tests.support.application import assert_problem, count_rows
from tests.support.months import month_of, remake_months, store_months_ago

from iris_api.database.owner import owner_session
from iris_api.database.partitions import detach, drop, find_partitions
from iris_api.settings import Settings

Drop = Callable[[int], Awaitable[None]]


@pytest.fixture
async def drop_month(settings: Settings, connection: asyncpg.Connection) -> Drop:
    """Drops the month of so many months ago, as `iris-api partitions drop` does."""

    async def drop_one(ago: int) -> None:
        month = await month_of(connection, ago=ago)
        async with owner_session(settings) as session:
            [found] = [one for one in await find_partitions(session) if one.month == month]
            await detach(session, found)
            await drop(session, found)

    await remake_months(connection, ago=3, ahead=1)
    return drop_one


async def get_ids(client: AsyncClient, query: str) -> tuple[list[str], str | None]:
    response = await client.get(f"/predictions?{query}")
    assert response.status_code == 200
    page = response.json()
    return [row["id"] for row in page["items"]], page["next_cursor"]


async def test_predictions_id_of_a_dropped_month_is_404_and_its_former_id_too(
    client: AsyncClient, connection: asyncpg.Connection, drop_month: Drop
) -> None:
    [prediction_id] = await store_months_ago(connection, 2)
    await connection.execute("INSERT INTO former_prediction_ids VALUES (17, $1)", prediction_id)
    assert (await client.get(f"/predictions/{prediction_id}")).status_code == 200
    assert (await client.get("/predictions/17")).status_code == 308
    await drop_month(2)
    for path in (prediction_id, 17):
        assert_problem(await client.get(f"/predictions/{path}"), 404, "prediction-not-found")


@EITHER
async def test_predict_with_the_idempotency_key_of_a_dropped_month_says_so(
    client: AsyncClient,
    connection: asyncpg.Connection,
    drop_month: Drop,
    path: str,
    body: object,
    rows: int,
) -> None:
    assert (await ask(client, "old", body, path)).status_code == 200
    ids = [UUID(one) for one in await store_months_ago(connection, 2, rows)]
    features = "sepal_length, sepal_width, petal_length, petal_width"
    await connection.execute(
        f"UPDATE iris_predictions AS old SET ({features}) = (SELECT {features}"
        " FROM iris_predictions JOIN idempotency_keys"
        " ON id = prediction_ids[array_position($1, old.id)]) WHERE id = ANY ($1)",
        ids,
    )
    await connection.execute("UPDATE idempotency_keys SET prediction_ids = $1", ids)
    again = await ask(client, "old", body, path)
    first = again.json() if rows == 1 else again.json()["items"][0]
    assert first["id"] == str(ids[0])
    count = await count_rows(connection)
    await drop_month(2)
    problem = assert_problem(await ask(client, "old", body, path), 422, "idempotency-key-reused")
    assert "has been deleted since" in problem["detail"]
    assert await count_rows(connection) == count - rows


async def test_predictions_pages_go_on_across_a_dropped_month(
    client: AsyncClient, connection: asyncpg.Connection, drop_month: Drop
) -> None:
    ids = {ago: (await store_months_ago(connection, ago, 5))[::-1] for ago in (3, 2, 1)}
    page, cursor = await get_ids(client, "limit=7")
    assert page == [*ids[1], *ids[2][:2]]
    await drop_month(2)
    page, end = await get_ids(client, f"limit=7&cursor={cursor}")
    assert page == ids[3]
    assert end is None
    page, _ = await get_ids(client, "limit=7")
    assert page == [*ids[1], *ids[3][:2]]
    page, _ = await get_ids(client, "limit=9&label=setosa")
    assert page == [*ids[1], *ids[3][:4]]
    await drop_month(3)
    assert await get_ids(client, f"limit=7&cursor={cursor}") == ([], None)


async def test_predict_and_predictions_while_months_are_dropped_are_all_200(
    client: AsyncClient, connection: asyncpg.Connection, drop_month: Drop
) -> None:
    for ago in (3, 2, 1):
        await store_months_ago(connection, ago, 5000)
    finished = asyncio.Event()

    async def keep_asking(number: int) -> list[Response]:
        responses: list[Response] = []
        while not finished.is_set():
            responses.append(await ask(client, f"{number}-{len(responses)}"))
            responses.append(await ask(client, None, BATCH, "/predict/batch"))
            responses.append(await client.get("/predictions?limit=1000&skip=4000"))
        return responses

    asking = [asyncio.create_task(keep_asking(number)) for number in range(8)]
    for ago in (3, 2, 1):
        await drop_month(ago)
    finished.set()
    responses = [one for many in await asyncio.gather(*asking) for one in many]
    assert {response.status_code for response in responses} == {200}
    assert len(responses) >= 8 * 3
    predicted = [one for one in responses if one.request.url.path == "/predict"]
    assert await count_rows(connection) == len(predicted) * (1 + len(BATCH["items"]))
