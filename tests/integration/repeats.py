"""Requests under a key, sent again and again."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from tests.support.flowers import SETOSA, VIRGINICA

FLOWERS = [{**SETOSA, "sepal_length": 5 + number / 1000} for number in range(100)]
BATCH = {"items": [SETOSA, VIRGINICA, SETOSA]}
EITHER = pytest.mark.parametrize(
    ("path", "body", "rows"), [("/predict", SETOSA, 1), ("/predict/batch", BATCH, 3)]
)


async def ask(
    client: AsyncClient, key: str | None, body: Any = SETOSA, path: str = "/predict"
) -> Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(path, json=body, headers=headers)


async def ask_all(
    client: AsyncClient, asked: Sequence[tuple[str | None, dict[str, float]]]
) -> list[Response]:
    """Ask at the same time, in this order."""
    return await asyncio.gather(*(ask(client, key, body) for key, body in asked))


def assert_same(responses: Sequence[Response]) -> None:
    """Hold answers equal, byte for byte."""
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert len({response.headers.get("Content-Location") for response in responses}) == 1


async def count_keys(connection: asyncpg.Connection) -> int:
    number: int = await connection.fetchval("SELECT count(*) FROM idempotency_keys")
    return number
