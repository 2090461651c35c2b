"""The header Idempotency-Key: a repeated request stores nothing and gets the first one's answer."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from tests.integration.repeats import BATCH, EITHER, ask, ask_all, assert_same, count_keys
from tests.integration.trouble import until_blocked
from tests.support.application import (
    assert_problem,
    client_of,
    count_rows,
    make_key,
    metric,
    running,
    started,
)
from tests.support.flowers import POISON, SETOSA, VIRGINICA

from iris_api.inference.training import train
from iris_api.settings import Settings


@EITHER
async def test_predict_with_a_repeated_idempotency_key_returns_the_first_response(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    assert_same([await ask(client, "mine", body, path) for _ in range(3)])
    assert await count_rows(connection) == rows


@EITHER
async def test_predict_with_a_repeated_idempotency_key_after_a_restart_returns_the_first_response(
    settings: Settings, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    responses = []
    for _ in range(2):
        async with running(settings) as client:
            responses.append(await ask(client, "mine", body, path))
    assert_same(responses)
    assert await count_rows(connection) == rows


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a model that gives other probabilities."""
    data_dir = tmp_path_factory.mktemp("other")
    train(data_dir / "model", candidate="nearest-neighbours")
    return data_dir


@EITHER
async def test_predict_with_a_repeated_idempotency_key_and_another_model_returns_the_first_response(
    settings: Settings, other_model: Path, path: str, body: Any, rows: int
) -> None:
    async with running(settings) as client:
        first = await ask(client, "mine", body, path)
    shutil.copytree(other_model, settings.data_dir, dirs_exist_ok=True)
    async with running(settings) as client:
        assert_same([first, await ask(client, "mine", body, path)])
        new = await ask(client, "new", body, path)
        assert new.status_code == 200
        assert new.content.count(b"nearest-neighbours") == rows


@EITHER
async def test_predict_with_one_idempotency_key_at_two_services_stores_once(
    settings: Settings, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    async with running(settings) as one, running(settings) as other:
        responses = await asyncio.gather(
            *(ask(client, "mine", body, path) for client in [one, other] * 50)
        )
    assert_same(responses)
    assert await count_rows(connection) == rows


@EITHER
async def test_predict_with_a_reused_idempotency_key_and_another_payload_is_422(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    first = await ask(client, "mine", body, path)
    other = VIRGINICA if path == "/predict" else {"items": [SETOSA]}
    assert_problem(await ask(client, "mine", other, path), 422, "idempotency-key-reused")
    assert await count_rows(connection) == rows
    assert_same([first, await ask(client, "mine", body, path)])


async def test_predict_batch_with_a_reused_idempotency_key_and_another_item_order_is_422(
    client: AsyncClient,
) -> None:
    await ask(client, "mine", {"items": [SETOSA, VIRGINICA]}, "/predict/batch")
    response = await ask(client, "mine", {"items": [VIRGINICA, SETOSA]}, "/predict/batch")
    assert_problem(response, 422, "idempotency-key-reused")


async def test_predict_with_a_repeated_idempotency_key_and_another_number_format_is_a_repeat(
    client: AsyncClient,
) -> None:
    headers = {"Idempotency-Key": "mine", "Content-Type": "application/json"}
    bodies = [
        '{"sepal_length": 5, "sepal_width": 3.50, "petal_length": 1e0, "petal_width": 0.2}',
        '{"petal_width":0.20,"petal_length":1,"sepal_width":3.5,"sepal_length":5.0}',
    ]
    assert_same([await client.post("/predict", content=one, headers=headers) for one in bodies])


@pytest.mark.parametrize("first", ["/predict", "/predict/batch"])
async def test_predict_with_an_idempotency_key_of_the_other_endpoint_is_422(
    client: AsyncClient, connection: asyncpg.Connection, first: str
) -> None:
    bodies = {"/predict": SETOSA, "/predict/batch": {"items": [SETOSA]}}
    [second] = set(bodies) - {first}
    assert (await ask(client, "mine", bodies[first], first)).status_code == 200
    response = await ask(client, "mine", bodies[second], second)
    assert_problem(response, 422, "idempotency-key-reused")
    assert await count_rows(connection) == 1


@EITHER
async def test_predict_with_the_idempotency_key_of_another_client_stores_its_own_rows(
    settings: Settings, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    async with started(settings.model_copy(update={"auth": "keys"})) as app:
        answers = []
        for name in ("one", "other"):
            async with client_of(app, **await make_key(settings, name)) as client:
                answers.append([await ask(client, "mine", body, path) for _ in range(2)])
    for answer in answers:
        assert_same(answer)
    assert answers[0][0].content != answers[1][0].content
    assert await count_rows(connection) == 2 * rows


async def test_predict_with_another_api_key_of_the_client_shares_its_idempotency_keys(
    settings: Settings,
) -> None:
    async with started(settings.model_copy(update={"auth": "keys"})) as app:
        responses = []
        for _ in range(2):
            async with client_of(app, **await make_key(settings, "one")) as client:
                responses.append(await ask(client, "mine"))
    assert_same(responses)


async def test_predict_with_an_idempotency_key_quoted_or_bare_is_a_repeat(
    client: AsyncClient,
) -> None:
    assert_same([await ask(client, key) for key in ("abc", '"abc"', '  "abc" ')])


MALFORMED = {
    "empty": [b""],
    "blank": [b"  "],
    "nothing in quotes": [b'""'],
    "too long": [b"x" * 256],
    "too long in quotes": [b'"' + b"x" * 256 + b'"'],
    "not ASCII": ["schlüssel".encode()],
    "not ASCII in quotes": ['"schlüssel"'.encode()],
    "a space": [b"a b"],
    "a control character": [b"a\x01b"],
    "a control character in quotes": [b'"a\x01b"'],
    "a tab in quotes": [b'"a\tb"'],
    "not closed": [b'"abc'],
    "not escaped": [b'"a"c"'],
    "a wrong escape": [rb'"a\bc"'],
    "parameters": [b'"abc";v=1'],
    "twice": [b"abc", b"abc"],
}


@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.asyncio(loop_scope="module")
async def test_predict_with_an_invalid_idempotency_key_is_422(
    shared_client: AsyncClient,
    shared_connection: asyncpg.Connection,
    path: str,
    values: list[bytes],
) -> None:
    headers = [(b"Idempotency-Key", value) for value in values]
    body = SETOSA if path == "/predict" else BATCH
    response = await shared_client.post(path, json=body, headers=headers)
    assert_problem(response, 422, "invalid-request", field="Idempotency-Key")
    assert await count_rows(shared_connection) == 0


@pytest.mark.parametrize("key", ["x" * 255, '"' + "x" * 255 + '"', '"a b"', r'"\"\\"', 'a"b', "!"])
async def test_predict_with_any_valid_form_of_idempotency_key_is_200(
    client: AsyncClient, key: str
) -> None:
    assert_same([await ask(client, key) for _ in range(2)])


@pytest.mark.usefixtures("poisoned")
async def test_predict_batch_with_the_idempotency_key_of_a_failed_batch_is_200(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    path = "/predict/batch"
    assert (await ask(client, "mine", {"items": [SETOSA, POISON]}, path)).status_code == 500
    assert (await count_rows(connection), await count_keys(connection)) == (0, 0)
    assert (await ask(client, "mine", BATCH, path)).status_code == 200


async def test_metrics_with_repeated_idempotency_keys_count_only_new_rows(
    client: AsyncClient,
) -> None:
    for _ in range(3):
        await ask(client, "one")
        await ask(client, "many", BATCH, "/predict/batch")
        await ask(client, "one", VIRGINICA)
    await ask_all(client, [("several", SETOSA)] * 10)
    assert await metric(client, "iris_predictions_total") == 5
    assert await metric(client, "iris_group_commit_rows_sum") == 2


async def test_predict_with_the_idempotency_key_of_a_running_batch_does_not_wait(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    """Its key is claimed at its end, so it is the batch that comes too late."""
    await connection.execute("""
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
        CREATE TRIGGER wait BEFORE INSERT ON iris_predictions
        FOR EACH ROW WHEN (NEW.sepal_length = 6.3) EXECUTE FUNCTION wait();
    """)
    await connection.execute("SELECT pg_advisory_lock(1)")
    batch = asyncio.create_task(ask(client, "mine", BATCH, "/predict/batch"))
    await until_blocked(connection)
    for key in ("mine", "mine", "another", None):
        assert (await ask(client, key)).status_code == 200
    assert not batch.done()
    await connection.execute("SELECT pg_advisory_unlock(1)")
    assert_problem(await batch, 422, "idempotency-key-reused")
    assert await count_rows(connection) == 3


async def test_predict_with_auth_off_stores_its_idempotency_key_for_the_anonymous_client(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    assert app.state.resources.settings.auth != "keys"
    await ask(client, '"a \\"b\\""')
    rows = await connection.fetch("SELECT client, key FROM idempotency_keys")
    assert [tuple(row) for row in rows] == [("anonymous", 'a "b"')]
