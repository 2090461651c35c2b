import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient
from tests.support.application import NOON, store
from tests.support.flowers import SETOSA

ROWS = 250


async def pages(client: AsyncClient, url: str) -> AsyncIterator[list[str]]:
    """The ids of each page, by following the header Link and nothing else."""
    next_url: str | None = url
    while next_url is not None:
        response = await client.get(next_url)
        assert response.status_code == 200, response.text
        body = response.json()
        yield [row["id"] for row in body["items"]]
        link = re.fullmatch(
            r'<(/predictions\?[^>]+)>; rel="next"', response.headers.get("Link", "")
        )
        assert (link is None) == (body["next_cursor"] is None)
        next_url = link and link[1]


async def walk(client: AsyncClient, url: str) -> list[str]:
    return [row async for page in pages(client, url) for row in page]


@pytest.fixture
async def stored(client: AsyncClient) -> list[str]:
    """The ids of 250 rows, newest first; batches make rows of equal times."""
    answers: list[dict[str, Any]] = []
    for size in (100, 1, 1, 99, 49):
        response = await client.post("/predict/batch", json={"items": [SETOSA] * size})
        answers += response.json()["items"]
    assert len(answers) == ROWS
    assert len({answer["created_at"] for answer in answers}) <= 5
    return [answer["id"] for answer in answers][::-1]


async def test_predictions_pages_during_inserts_hold_every_row_once(
    client: AsyncClient, stored: list[str]
) -> None:
    arrived: list[str] = []
    arrival, finished = asyncio.Event(), asyncio.Event()

    async def keep_inserting() -> None:
        while not finished.is_set():
            response = await client.post("/predict", json=SETOSA)
            arrived.append(response.json()["id"])
            arrival.set()

    inserting = asyncio.create_task(keep_inserting())
    seen: list[str] = []
    async for page in pages(client, "/predictions?limit=7"):
        seen += page
        arrival.clear()
        async with asyncio.timeout(30):
            await arrival.wait()  # so that rows arrive between any two pages
    finished.set()
    await inserting
    assert [number for number in seen if number not in arrived] == stored
    assert len(seen) == len(set(seen))
    assert len(arrived) > ROWS // 7


async def test_predictions_pages_during_deletes_miss_no_row(
    client: AsyncClient, connection: asyncpg.Connection, stored: list[str]
) -> None:
    seen: list[str] = []
    async for page in pages(client, "/predictions?limit=7"):
        seen += page
        await connection.execute("DELETE FROM iris_predictions WHERE id = $1", page[-1])
    assert seen == stored


@pytest.mark.parametrize("limit", [1, 249, 250, 251])
async def test_predictions_pages_of_any_limit_hold_all_rows(
    client: AsyncClient, stored: list[str], limit: int
) -> None:
    assert await walk(client, f"/predictions?limit={limit}") == stored


async def test_predictions_next_link_keeps_the_filters(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    wanted = []
    for minute in range(40):
        created_at = NOON + timedelta(minutes=minute)
        for label in ("a label & more=✿", "setosa"):
            for model_version in ("model-1", "model-2"):
                number = await store(
                    connection, label=label, model_version=model_version, created_at=created_at
                )
                if label != "setosa" and model_version == "model-2" and 10 <= minute < 30:
                    wanted.append(number)
    url = (
        "/predictions?limit=3&label=a%20label%20%26%20more%3D%E2%9C%BF&model_version=model-2"
        "&since=2026-01-31T13:10:00%2B01:00&until=2026-01-31T12:30:00Z"
    )
    assert await walk(client, url) == wanted[::-1]


async def test_predictions_next_link_after_skip_leads_to_the_rest(
    client: AsyncClient, stored: list[str]
) -> None:
    assert await walk(client, "/predictions?limit=50&skip=120") == stored[120:]


async def test_predictions_next_cursor_equals_the_cursor_of_the_link(
    client: AsyncClient, stored: list[str]
) -> None:
    first = await client.get("/predictions", params={"limit": 7})
    cursor = first.json()["next_cursor"]
    assert f"cursor={cursor}" in first.headers["Link"]
    second = await client.get("/predictions", params={"limit": 7, "cursor": cursor})
    assert [row["id"] for row in second.json()["items"]] == stored[7:14]
