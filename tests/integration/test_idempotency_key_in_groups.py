"""Requests under a key within a group that is committed as one."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from tests.integration.repeats import (
    FLOWERS,
    ask,
    ask_all,
    assert_same,
    count_keys,
    in_one_group,
)
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import POISON

from iris_api.settings import Settings


async def ask_in_one_group(
    client: AsyncClient,
    connection: asyncpg.Connection,
    asked: Sequence[tuple[str | None, dict[str, float]]],
) -> list[Response]:
    requests = [ask(client, key, flower) for key, flower in asked]
    return await in_one_group(client, connection, requests)


async def test_predict_in_a_group_of_new_repeated_and_reused_idempotency_keys_returns_each_result(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    earlier = await ask(client, "earlier", FLOWERS[0])
    asked: list[tuple[str | None, dict[str, float]]] = [
        ("new", FLOWERS[1]),
        (None, FLOWERS[2]),
        ("earlier", FLOWERS[0]),
        ("new", FLOWERS[1]),
        ("earlier", FLOWERS[3]),
        (None, FLOWERS[2]),
        ("another", FLOWERS[4]),
    ]
    responses = await ask_in_one_group(client, connection, asked)
    new, unkeyed, repeated, again, mismatched, unkeyed_too, another = responses
    assert_same([earlier, repeated])
    assert_same([new, again])
    assert_problem(mismatched, 422, "idempotency-key-reused")
    assert len({one.json()["id"] for one in (earlier, new, unkeyed, unkeyed_too, another)}) == 5
    for (_, flower), response in zip(asked, responses, strict=True):
        if response is not mismatched:
            stored = (await client.get(response.headers["Content-Location"])).json()
            assert stored == {**response.json(), **flower, "reference": None}
    transactions = await connection.fetchval(
        "SELECT count(DISTINCT xmin::text) FROM iris_predictions"
    )
    assert transactions == 3  # the earlier one, the one that held the group up, the group
    assert await count_rows(connection) == 6


async def test_predict_with_two_payloads_under_one_idempotency_key_in_a_group_stores_one(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    responses = await ask_in_one_group(
        client, connection, [("mine", FLOWERS[0]), ("mine", FLOWERS[1])]
    )
    taken, refused = sorted(responses, key=lambda response: response.status_code)
    assert taken.status_code == 200
    assert_problem(refused, 422, "idempotency-key-reused")
    assert await count_rows(connection) == 2  # the other one held the group up


@pytest.mark.usefixtures("poisoned")
async def test_predict_with_a_refused_row_in_a_group_stores_others_and_frees_its_idempotency_key(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    asked = [(f"key-{number}", FLOWERS[number]) for number in range(8)]
    asked[3] = ("key-3", POISON)
    responses = await ask_in_one_group(client, connection, asked)
    statuses = [response.status_code for response in responses]
    assert statuses == [500 if flower is POISON else 200 for _, flower in asked]
    assert await count_rows(connection) == len(asked)  # without the poison, with the first
    assert await count_keys(connection) == len(asked) - 1
    again = await ask_all(client, asked)
    for first, second in zip(responses, again, strict=True):
        if first.status_code == 200:
            assert_same([first, second])
    await connection.execute("DROP TRIGGER refuse ON iris_predictions")
    assert (await ask(client, "key-3", POISON)).status_code == 200


@pytest.fixture
async def two_services(settings: Settings) -> AsyncIterator[tuple[AsyncClient, AsyncClient]]:
    async with running(settings) as one, running(settings) as other:
        yield one, other


async def test_predict_in_groups_with_idempotency_keys_in_opposite_order_does_not_deadlock(
    two_services: tuple[AsyncClient, AsyncClient], connection: asyncpg.Connection
) -> None:
    one, other = two_services
    for turn in range(10):
        asked = [(f"{turn}-{number}", FLOWERS[number]) for number in range(50)]
        forwards, backwards = await asyncio.gather(ask_all(one, asked), ask_all(other, asked[::-1]))
        for pair in zip(forwards, reversed(backwards), strict=True):
            assert_same(pair)
    assert await count_rows(connection) == 500
    deadlocks = await connection.fetchval(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    )
    assert deadlocks == 0


@pytest.fixture
async def at_work(connection: asyncpg.Connection) -> AsyncIterator[str]:
    """A key under which another transaction is still storing."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("""
        INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
        VALUES ('anonymous', 'at-work', false, ARRAY[gen_random_uuid()])
    """)
    yield "at-work"
    await transaction.rollback()


async def test_predict_with_a_locked_idempotency_key_is_503_and_others_of_its_group_are_200(
    settings: Settings, at_work: str
) -> None:
    settings = settings.model_copy(update={"database_lock_timeout": 0.3})
    async with running(settings) as client:
        keyed, *others = await ask_all(client, [(at_work, FLOWERS[0]), *[(None, FLOWERS[1])] * 9])
        assert_problem(keyed, 503, "outcome-unknown")
        assert {response.status_code for response in others} == {200}
        assert (await client.get("/readyz")).status_code == 200


async def test_predict_batch_with_a_locked_idempotency_key_is_503_and_readyz_is_200(
    settings: Settings, at_work: str, connection: asyncpg.Connection
) -> None:
    settings = settings.model_copy(update={"database_lock_timeout": 0.3})
    async with running(settings) as client:
        headers = {"Idempotency-Key": at_work}
        batch = await client.post("/predict/batch", json={"items": FLOWERS}, headers=headers)
        assert_problem(batch, 503, "outcome-unknown")
        assert (await client.get("/readyz")).status_code == 200
    assert await count_rows(connection) == 0
