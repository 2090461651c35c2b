import asyncpg
import pytest
from httpx2 import AsyncClient
from tests.support.application import assert_problem, count_rows
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database.schema import MAX_BATCH_ITEMS


def flowers(number: int) -> list[dict[str, float]]:
    """Flowers that all differ, so that an answer can be told from its neighbours'."""
    return [{**SETOSA, "sepal_length": 4 + index / 5000} for index in range(number)]


async def test_predict_batch_keeps_the_order_of_its_items(client: AsyncClient) -> None:
    items = [SETOSA, VIRGINICA] * 20
    response = await client.post("/predict/batch", json={"items": items})
    assert response.status_code == 200
    answers = response.json()["items"]
    assert [answer["prediction_label"] for answer in answers] == ["setosa", "virginica"] * 20
    ids = [answer["id"] for answer in answers]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("number", [1, MAX_BATCH_ITEMS])
async def test_predict_batch_returns_the_stored_rows(
    client: AsyncClient, connection: asyncpg.Connection, number: int
) -> None:
    items = flowers(number)
    response = await client.post("/predict/batch", json={"items": items})
    assert response.status_code == 200
    answers = response.json()["items"]
    assert len(answers) == number
    rows = await connection.fetch(
        "SELECT *, stored.id::text AS id, version AS model_version FROM iris_predictions AS stored"
        " JOIN models ON models.id = model_id ORDER BY stored.id"
    )
    for item, answer, row in zip(items, answers, rows, strict=True):
        assert {name: row[name] for name in item} == item
        for name in ("id", "prediction", "prediction_label", "model_version"):
            assert answer[name] == row[name]
    newest = (await client.get("/predictions", params={"limit": 1})).json()["items"]
    assert newest == [{**answers[-1], **items[-1], "reference": None}]


async def test_predict_batch_is_one_transaction(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await client.post("/predict/batch", json={"items": flowers(1000)})
    transactions = await connection.fetchval(
        "SELECT count(DISTINCT xmin::text) FROM iris_predictions"
    )
    assert transactions == 1


async def test_predict_batch_with_one_invalid_item_is_422_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    items = flowers(10)
    items[3]["sepal_length"] = -1
    response = await client.post("/predict/batch", json={"items": items})
    body = assert_problem(response, 422, "invalid-request", field="items[3].sepal_length")
    assert len(body["errors"]) == 1
    assert await count_rows(connection) == 0


async def test_predict_batch_with_a_row_refused_by_postgresql_is_500_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await connection.execute("ALTER TABLE iris_predictions ADD CHECK (sepal_length <> 4.0006)")
    response = await client.post("/predict/batch", json={"items": flowers(10)})
    assert_problem(response, 500, "not-stored")
    assert await count_rows(connection) == 0


@pytest.mark.parametrize("number", [0, MAX_BATCH_ITEMS + 1])
async def test_predict_batch_without_items_or_with_too_many_is_422(
    client: AsyncClient, connection: asyncpg.Connection, number: int
) -> None:
    response = await client.post("/predict/batch", json={"items": flowers(number)})
    assert_problem(response, 422, "invalid-request", field="items")
    assert await count_rows(connection) == 0


async def test_predict_batch_with_1000_invalid_items_is_422_with_at_most_100_errors(
    client: AsyncClient,
) -> None:
    items = [{**SETOSA, "petal_width": 101}] * 1000
    response = await client.post("/predict/batch", json={"items": items})
    body = assert_problem(response, 422, "invalid-request", field="items[0].petal_width")
    assert len(body["errors"]) <= 100
