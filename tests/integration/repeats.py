"""Requests under a key, sent again and again."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from tests.integration.trouble import until_blocked, writes_held_up
from tests.support.flowers import SETOSA, VIRGINICA

FLOWERS = [{**SETOSA, "sepal_length": 5 + number / 1000} for number in range(100)]
BATCH = {"items": [SETOSA, VIRGINICA, SETOSA]}
EITHER = pytest.mark.parametrize(
    ("path", "body", "rows"), [("/predict", SETOSA, 1), ("/predict/batch", BATCH, 3)]
)


async def ask(
    client: AsyncClient,
    key: str | None,
    body: Any = SETOSA,
    path: str = "/predict",
    *,
    reference: str | None = None,
) -> Response:
    headers = {} if key is None else {b"Idempotency-Key": key.encode()}
    if reference is not None:
        headers[b"Prediction-Reference"] = reference.encode()
    return await client.post(path, json=body, headers=headers)


async def ask_all(
    client: AsyncClient, asked: Sequence[tuple[str | None, dict[str, float]]]
) -> list[Response]:
    """Ask at the same time, in this order."""
    return await asyncio.gather(*(ask(client, key, body) for key, body in asked))


async def in_one_group(
    client: AsyncClient, connection: asyncpg.Connection, requests: Sequence[Awaitable[Response]]
) -> list[Response]:
    """Send while another group is held up, so that all of these form the next one."""
    async with writes_held_up(connection):
        first = asyncio.create_task(ask(client, None))
        await until_blocked(connection)
        others = asyncio.gather(*requests)
        recorder = client._transport.app.state.resources.recorder  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while recorder.waiting_rows < len(requests):
                await asyncio.sleep(0.01)
    assert (await first).status_code == 200
    return await others


def assert_same(responses: Sequence[Response]) -> None:
    """Hold answers equal, byte for byte."""
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert len({response.headers.get("Content-Location") for response in responses}) == 1


async def count_keys(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval("SELECT count(*) FROM idempotency_keys")
    return number
