from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient
from tests.support.application import NOON, store
from tests.support.flowers import SETOSA

MINUTE = timedelta(minutes=1)


async def ids(client: AsyncClient, **query: Any) -> list[str]:
    response = await client.get("/predictions", params=query)
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json()["items"]]


async def test_predictions_without_rows_is_empty(client: AsyncClient) -> None:
    response = await client.get("/predictions")
    assert response.json() == {"items": [], "next_cursor": None}
    assert "Link" not in response.headers


async def test_predictions_are_sorted_newest_first(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    middle = await store(connection, created_at=NOON)
    newest = await store(connection, created_at=NOON + MINUTE)
    oldest = await store(connection, created_at=NOON - MINUTE)
    beside = await store(connection, created_at=NOON)
    assert await ids(client) == [newest, *sorted([middle, beside], reverse=True), oldest]


async def test_predictions_holds_the_features_and_the_prediction(client: AsyncClient) -> None:
    answer = (await client.post("/predict", json=SETOSA)).json()
    [row] = (await client.get("/predictions")).json()["items"]
    assert row == {**answer, **SETOSA, "reference": None}
    assert datetime.fromisoformat(row["created_at"]).tzinfo is not None


async def test_predictions_of_a_row_without_model_version_and_probabilities_has_null(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await store(connection, model_version=None)
    [row] = (await client.get("/predictions")).json()["items"]
    assert row["model_version"] is None
    assert row["probabilities"] is None


async def test_predictions_with_a_label_that_the_ml_model_lacks_finds_earlier_rows_or_none(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    earlier = await store(connection, label="hybrida")
    assert "hybrida" not in (await client.get("/model")).json()["classes"]
    assert await ids(client, label="hybrida") == [earlier]
    assert await ids(client, label="nosuch") == []


async def test_predictions_since_is_inclusive_and_until_is_exclusive(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    rows = [await store(connection, created_at=NOON + minute * MINUTE) for minute in range(4)]
    first, second, third, fourth = rows
    at = [(NOON + minute * MINUTE).isoformat() for minute in range(4)]
    assert await ids(client, since=at[1]) == [fourth, third, second]
    assert await ids(client, until=at[2]) == [second, first]
    assert await ids(client, since=at[1], until=at[2]) == [second]
    assert await ids(client, since=at[2], until=at[2]) == []
    assert await ids(client, since="2026-01-31T14:02:00+02:00") == [fourth, third]


async def test_predictions_since_and_until_compare_nanoseconds(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    row = await store(connection, created_at=NOON)
    for text in ("2026-01-31T12:00:00.0000009Z", "2026-01-31T12:00:00.000000001Z"):
        assert await ids(client, until=text) == [row]
        assert await ids(client, since=text) == []


async def test_predictions_since_and_until_compare_microseconds(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    late = NOON + timedelta(microseconds=1)
    row = await store(connection, created_at=late)
    assert await ids(client, since=late.isoformat()) == [row]
    assert await ids(client, until=late.isoformat()) == []


@pytest.fixture
async def mixed(connection: asyncpg.Connection) -> dict[str, tuple[str, str | None, int]]:
    """Rows of each label, model and minute, by their ids."""
    return {
        await store(
            connection, label=label, model_version=model, created_at=NOON + minute * MINUTE
        ): (label, model, minute)
        for minute in range(3)
        for label in ("setosa", "versicolor")
        for model in ("model-1", "model-2", None)
    }


@pytest.mark.parametrize("label", [None, "setosa", "virginica"])
@pytest.mark.parametrize("model", [None, "model-1", "model-3"])
@pytest.mark.parametrize("since", [None, 1])
@pytest.mark.parametrize("until", [None, 2])
async def test_predictions_filters_apply_alone_and_together(
    client: AsyncClient,
    mixed: dict[str, tuple[str, str | None, int]],
    label: str | None,
    model: str | None,
    since: int | None,
    until: int | None,
) -> None:
    query: dict[str, str] = {}
    query |= {"label": label} if label else {}
    query |= {"model_version": model} if model else {}
    query |= {"since": (NOON + since * MINUTE).isoformat()} if since is not None else {}
    query |= {"until": (NOON + until * MINUTE).isoformat()} if until is not None else {}
    expected = [
        row
        for row, (row_label, row_model, minute) in mixed.items()
        if label in (None, row_label)
        and model in (None, row_model)
        and (since is None or minute >= since)
        and (until is None or minute < until)
    ]
    assert await ids(client, **query) == sorted(expected, reverse=True)


async def test_predictions_with_skip_and_limit_returns_that_page(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    newest_first = sorted([await store(connection) for _ in range(10)], reverse=True)
    assert await ids(client, limit=4) == newest_first[:4]
    assert await ids(client, limit=4, skip=4) == newest_first[4:8]
    assert await ids(client, limit=4, skip=8) == newest_first[8:]
    assert await ids(client, limit=4, skip=10) == []


async def test_predictions_without_limit_returns_50_rows(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await store(connection)
    await connection.execute(
        "INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,"
        " prediction, prediction_label) SELECT 1, 1, 1, 1, 0, 'setosa' FROM generate_series(1, 999)"
    )
    assert len(await ids(client)) == 50
    assert len(await ids(client, limit=1000)) == 1000


async def test_predictions_last_page_has_no_next_cursor_and_no_link(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    for _ in range(4):
        await store(connection)
    for limit, more in [(3, True), (4, False), (5, False)]:
        response = await client.get("/predictions", params={"limit": limit})
        assert (response.json()["next_cursor"] is not None) == more
        assert ("Link" in response.headers) == more
