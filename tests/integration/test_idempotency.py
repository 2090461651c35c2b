"""The header Idempotency-Key: a repeated request stores nothing and gets the first one's answer."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from sqlalchemy.ext.asyncio import AsyncSession
from tests.integration.support import (
    POISON,
    SETOSA,
    VIRGINICA,
    assert_problem,
    client_of,
    count_rows,
    make_key,
    metric,
    running,
    started,
    until_blocked,
    writes_held_up,
)

from iris_api.database import housekeeping, keyed_writes
from iris_api.database.crud import prune_idempotency_keys
from iris_api.inference.training import train
from iris_api.settings import Settings

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


async def ask_in_one_group(
    client: AsyncClient,
    connection: asyncpg.Connection,
    asked: Sequence[tuple[str | None, dict[str, float]]],
) -> list[Response]:
    """Ask while another group is held up, so that all of these form the next one."""
    async with writes_held_up(connection):
        first = asyncio.create_task(ask(client, None))
        await until_blocked(connection)
        others = asyncio.create_task(ask_all(client, asked))
        recorder = client._transport.app.state.resources.recorder  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while len(recorder._batcher._waiting) < len(asked):
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


@EITHER
async def test_a_repeated_request_gets_the_first_answer_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    assert_same([await ask(client, "mine", body, path) for _ in range(3)])
    assert await count_rows(connection) == rows


@EITHER
async def test_an_answer_is_repeated_after_a_restart(
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
async def test_an_answer_is_repeated_although_the_model_is_another_now(
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
async def test_two_services_at_once_store_a_key_once(
    settings: Settings, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    async with running(settings) as one, running(settings) as other:
        responses = await asyncio.gather(
            *(ask(client, "mine", body, path) for client in [one, other] * 50)
        )
    assert_same(responses)
    assert await count_rows(connection) == rows


@EITHER
async def test_another_payload_under_the_same_key_is_refused(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: Any, rows: int
) -> None:
    first = await ask(client, "mine", body, path)
    other = VIRGINICA if path == "/predict" else {"items": [SETOSA]}
    assert_problem(await ask(client, "mine", other, path), 422, "idempotency-key-reused")
    assert await count_rows(connection) == rows
    assert_same([first, await ask(client, "mine", body, path)])


async def test_a_batch_with_its_items_in_another_order_is_another_payload(
    client: AsyncClient,
) -> None:
    await ask(client, "mine", {"items": [SETOSA, VIRGINICA]}, "/predict/batch")
    response = await ask(client, "mine", {"items": [VIRGINICA, SETOSA]}, "/predict/batch")
    assert_problem(response, 422, "idempotency-key-reused")


async def test_numbers_that_are_written_differently_are_the_same_payload(
    client: AsyncClient,
) -> None:
    headers = {"Idempotency-Key": "mine", "Content-Type": "application/json"}
    bodies = [
        '{"sepal_length": 5, "sepal_width": 3.50, "petal_length": 1e0, "petal_width": 0.2}',
        '{"petal_width":0.20,"petal_length":1,"sepal_width":3.5,"sepal_length":5.0}',
    ]
    assert_same([await client.post("/predict", content=one, headers=headers) for one in bodies])


@pytest.mark.parametrize("first", ["/predict", "/predict/batch"])
async def test_a_key_of_one_endpoint_is_refused_at_the_other(
    client: AsyncClient, connection: asyncpg.Connection, first: str
) -> None:
    bodies = {"/predict": SETOSA, "/predict/batch": {"items": [SETOSA]}}
    [second] = set(bodies) - {first}
    assert (await ask(client, "mine", bodies[first], first)).status_code == 200
    response = await ask(client, "mine", bodies[second], second)
    assert_problem(response, 422, "idempotency-key-reused")
    assert await count_rows(connection) == 1


@EITHER
async def test_a_key_of_one_client_is_not_anothers(
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


async def test_two_keys_of_a_client_share_its_idempotency_keys(settings: Settings) -> None:
    async with started(settings.model_copy(update={"auth": "keys"})) as app:
        responses = []
        for _ in range(2):
            async with client_of(app, **await make_key(settings, "one")) as client:
                responses.append(await ask(client, "mine"))
    assert_same(responses)


async def test_a_key_is_the_same_in_quotes_and_bare(client: AsyncClient) -> None:
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
async def test_a_key_that_is_none_is_refused(
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
async def test_a_key_of_any_allowed_form_is_taken(client: AsyncClient, key: str) -> None:
    assert_same([await ask(client, key) for _ in range(2)])


async def test_each_of_a_mixed_group_gets_its_own_result(
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
            assert stored == {**response.json(), **flower}
    transactions = await connection.fetchval(
        "SELECT count(DISTINCT xmin::text) FROM iris_predictions"
    )
    assert transactions == 3  # the earlier one, the one that held the group up, the group
    assert await count_rows(connection) == 6


async def test_of_two_payloads_under_one_key_in_a_group_one_is_stored(
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
async def test_a_refused_row_takes_neither_its_neighbours_nor_its_key_with_it(
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


@pytest.mark.usefixtures("poisoned")
async def test_a_key_of_a_batch_that_failed_may_be_used(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    path = "/predict/batch"
    assert (await ask(client, "mine", {"items": [SETOSA, POISON]}, path)).status_code == 500
    assert (await count_rows(connection), await count_keys(connection)) == (0, 0)
    assert (await ask(client, "mine", BATCH, path)).status_code == 200


@pytest.fixture
async def two_services(settings: Settings) -> AsyncIterator[tuple[AsyncClient, AsyncClient]]:
    async with running(settings) as one, running(settings) as other:
        yield one, other


async def test_groups_with_the_same_keys_in_opposite_order_never_deadlock(
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


async def test_the_metrics_count_new_rows_alone(client: AsyncClient) -> None:
    for _ in range(3):
        await ask(client, "one")
        await ask(client, "many", BATCH, "/predict/batch")
        await ask(client, "one", VIRGINICA)
    await ask_all(client, [("several", SETOSA)] * 10)
    assert await metric(client, "iris_predictions_total") == 5
    assert await metric(client, "iris_group_commit_rows_sum") == 2


async def test_old_keys_are_forgotten_and_may_be_used_anew(
    client: AsyncClient, connection: asyncpg.Connection, session: AsyncSession
) -> None:
    old, _, young = [await ask(client, key) for key in ("old", "older", "young")]
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'"
        " WHERE key <> 'young'"
    )
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'"
        " WHERE key = 'young'"
    )
    assert await prune_idempotency_keys(session, older_than=timedelta(hours=24)) == 2
    assert await prune_idempotency_keys(session, older_than=timedelta(hours=24)) == 0
    assert_same([young, await ask(client, "young")])
    new = await ask(client, "old", VIRGINICA)
    assert new.status_code == 200
    assert new.json()["id"] != old.json()["id"]
    assert await count_rows(connection) == 4  # what was predicted is kept


async def test_keys_are_forgotten_in_chunks(
    connection: asyncpg.Connection, session: AsyncSession
) -> None:
    await connection.execute(
        "INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids, created_at)"
        " SELECT 'one', n::text, false, ARRAY[n], now() - interval '2 days'"
        " FROM generate_series(1, 25000) AS n"
    )
    day = timedelta(days=1)
    pruned = [await prune_idempotency_keys(session, older_than=day) for _ in range(4)]
    assert pruned == [10_000, 10_000, 5000, 0]
    assert await count_keys(connection) == 0


async def test_the_service_goes_on_forgetting_keys_whatever_went_wrong_before(
    settings: Settings, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_SECONDS_BETWEEN_ROUNDS", 0.02)
    await connection.execute("""
        CREATE SEQUENCE attempts;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'a defect'; END IF;
            RETURN OLD;
        END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON idempotency_keys
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    async with running(settings) as client:
        assert (await ask(client, "old")).status_code == 200
        assert (await ask(client, "young")).status_code == 200
        await connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'"
        )
        async with asyncio.timeout(30):
            while await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 2:
                await asyncio.sleep(0.02)
    assert await connection.fetchval("SELECT last_value FROM attempts") == 2
    assert await connection.fetchval("SELECT key FROM idempotency_keys") == "young"


async def test_a_key_that_is_forgotten_while_its_row_is_looked_for_is_not_called_reused(
    client: AsyncClient, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ask(client, "old")
    find = keyed_writes._find

    async def forget_and_find(*args: Any, **kwargs: Any) -> Any:
        await connection.execute("DELETE FROM idempotency_keys")
        return await find(*args, **kwargs)

    monkeypatch.setattr(keyed_writes, "_find", forget_and_find)
    assert_problem(await ask(client, "old"), 503, "outcome-unknown")
    monkeypatch.undo()
    again = await ask(client, "old")
    assert again.status_code == 200
    assert again.content != first.content


async def test_a_batch_that_takes_long_keeps_nobody_waiting_for_its_key(
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


async def test_keys_that_another_replica_is_just_forgetting_are_passed_over(
    connection: asyncpg.Connection, session: AsyncSession, client: AsyncClient
) -> None:
    await ask_all(client, [("one", SETOSA), ("other", SETOSA)])
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '2 days'")
    async with connection.transaction():
        await connection.execute("DELETE FROM idempotency_keys WHERE key = 'one'")
        assert await prune_idempotency_keys(session, older_than=timedelta(days=1)) == 1
    assert await count_keys(connection) == 0


async def test_a_key_is_stored_for_the_anonymous_client_where_access_is_open(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    assert app.state.resources.open_access
    await ask(client, '"a \\"b\\""')
    rows = await connection.fetch("SELECT client, key FROM idempotency_keys")
    assert [tuple(row) for row in rows] == [("anonymous", 'a "b"')]
