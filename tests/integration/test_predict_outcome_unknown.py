"""What callers are told when the way to PostgreSQL breaks, and that it is true."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from sqlalchemy import URL, make_url
from tests.conftest import settings_for, way_to
from tests.support.application import assert_problem, count_rows, metric, running
from tests.support.flowers import SETOSA
from tests.support.proxy import Proxy

FLOWERS = [{**SETOSA, "sepal_length": 5 + number / 1000} for number in range(20)]
BATCH = {"items": FLOWERS[:3]}
LONG = 20
"""Seconds after which the service would have hung."""


@pytest.fixture
async def proxy(database: URL) -> AsyncIterator[Proxy]:
    """Before PostgreSQL, or before PgBouncer where the tests have one."""
    async with Proxy.before(make_url(str(way_to(database)["database_url"]))) as proxy:
        yield proxy


@pytest.fixture(params=[False, True], ids=["direct", "as for PgBouncer"])
def explicit(request: pytest.FixtureRequest, database: URL) -> bool:
    """Whether each statement stands in a transaction of its own, with BEGIN and COMMIT."""
    if way_to(database)["database_pgbouncer"] and not request.param:
        pytest.skip("PgBouncer wants each statement in a transaction of its own")
    return bool(request.param)


@pytest.fixture
def patience() -> float:
    """Seconds that the service waits for PostgreSQL, for each thing; the network has one more."""
    return 30


@pytest.fixture
async def client(
    proxy: Proxy,
    data_dir: Path,
    connection: asyncpg.Connection,
    patience: float,
    *,
    explicit: bool,
) -> AsyncIterator[AsyncClient]:
    """A client of a service that reaches PostgreSQL through the proxy.

    It has one connection, on which nothing is to be prepared any more: what is sent there is the
    statement that stores.
    """
    settings = settings_for(
        proxy.url,
        data_dir,
        database_connect_timeout=patience,
        database_pool_timeout=patience,
        database_command_timeout=patience,
        readiness_timeout=patience,
        database_pgbouncer=explicit,
    )
    async with running(settings) as client:
        for key in ("warm", "warm", None):
            assert (await ask(client, SETOSA, key)).status_code == 200
            assert (await ask(client, BATCH, key and f"{key}-batch")).status_code == 200
        await connection.execute("TRUNCATE iris_predictions, idempotency_keys")
        yield client


async def ask(client: AsyncClient, body: Any = SETOSA, key: str | None = None) -> Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    path = "/predict/batch" if "items" in body else "/predict"
    return await client.post(path, json=body, headers=headers)


def assert_unknown(response: Response) -> None:
    detail = assert_problem(response, 503, "outcome-unknown")["detail"]
    assert "Nothing was stored" not in detail
    assert "same Idempotency-Key" in detail


async def ask_all(client: AsyncClient, *, keyed: bool) -> list[Response]:
    return await asyncio.gather(
        *(
            ask(client, flower, f"key-{number}" if keyed else None)
            for number, flower in enumerate(FLOWERS)
        )
    )


@pytest.mark.parametrize("keyed", [False, True])
async def test_predict_in_a_group_with_a_lost_commit_reply_is_outcome_unknown(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection, *, keyed: bool
) -> None:
    proxy.cut_commit()
    responses = await ask_all(client, keyed=keyed)
    assert proxy.has_cut()
    unknown = [response for response in responses if response.status_code != 200]
    assert unknown
    for response in unknown:
        assert_unknown(response)
    assert await count_rows(connection) == len(FLOWERS), "the lost answer was yes"


async def test_predict_in_a_group_repeated_after_a_lost_commit_reply_returns_the_stored_rows(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    proxy.cut_commit()
    first = await ask_all(client, keyed=True)
    again = await ask_all(client, keyed=True)
    assert proxy.has_cut()
    statuses = {response.status_code for response in first}
    assert {503} <= statuses <= {200, 503}
    assert {response.status_code for response in again} == {200}
    for before, after in zip(first, again, strict=True):
        assert before.status_code == 503 or before.content == after.content
    stored = await connection.fetch("SELECT id FROM iris_predictions")
    assert sorted(response.json()["id"] for response in again) == sorted(
        str(row["id"]) for row in stored
    )


@pytest.mark.parametrize(("body", "rows"), [(SETOSA, 1), (BATCH, 3)])
async def test_predict_repeated_after_a_lost_commit_reply_stores_nothing_more(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection, body: Any, rows: int
) -> None:
    proxy.cut_commit()
    assert_unknown(await ask(client, body, "mine"))
    assert proxy.has_cut()
    assert await count_rows(connection) == rows
    retries = [await ask(client, body, "mine") for _ in range(2)]
    assert [response.status_code for response in retries] == [200, 200]
    assert retries[0].content == retries[1].content
    assert await count_rows(connection) == rows


@pytest.mark.parametrize("body", [SETOSA, BATCH])
async def test_predict_without_an_idempotency_key_and_a_lost_commit_reply_is_outcome_unknown(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection, body: Any
) -> None:
    proxy.cut_commit()
    assert_unknown(await ask(client, body))
    assert proxy.has_cut()
    assert await count_rows(connection) == len(body.get("items", [body]))
    assert (await ask(client, body)).status_code == 200


@pytest.mark.parametrize(("body", "rows"), [(SETOSA, 1), (BATCH, 3)])
async def test_predict_with_a_lost_statement_is_503_and_its_idempotency_key_is_free(
    client: AsyncClient,
    proxy: Proxy,
    connection: asyncpg.Connection,
    body: Any,
    rows: int,
    *,
    explicit: bool,
) -> None:
    proxy.cut_question()
    response = await ask(client, body, "mine")
    if explicit and "items" not in body:  # what was lost is its BEGIN
        assert_problem(response, 503, "database-unavailable")
    else:
        assert_unknown(response)
    assert proxy.has_cut()
    assert await count_rows(connection) == 0
    assert (await ask(client, body, "mine")).status_code == 200
    assert await count_rows(connection) == rows


@pytest.mark.parametrize(
    ("body", "statement"),
    [
        (SETOSA, "INSERT INTO idempotency_keys"),
        (SETOSA, "JOIN idempotency_keys"),
        (BATCH, "JOIN idempotency_keys"),
    ],
)
async def test_predict_with_a_repeated_idempotency_key_and_a_lost_lookup_reply_is_503(
    client: AsyncClient, proxy: Proxy, body: Any, statement: str, *, explicit: bool
) -> None:
    """The row is there, but the caller has not seen it: never "nothing was stored"."""
    first = await ask(client, body, "mine")
    assert first.status_code == 200
    proxy.cut_answer(statement)
    response = await ask(client, body, "mine")
    if explicit and "INSERT" in statement:  # nobody has found out that there is a row
        assert_problem(response, 503, "database-unavailable")
    else:
        assert_unknown(response)
    assert proxy.has_cut()
    assert (await ask(client, body, "mine")).content == first.content


async def test_predict_in_a_group_with_a_lost_lookup_reply_returns_the_other_rows(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    """They are committed, whatever becomes of the question what the known key had stored."""
    await ask(client, FLOWERS[0], "key-0")
    proxy.cut_answer("JOIN idempotency_keys")
    first, *others = await ask_all(client, keyed=True)
    assert proxy.has_cut()
    assert_unknown(first)
    stored = {str(row["id"]) for row in await connection.fetch("SELECT id FROM iris_predictions")}
    assert len(stored) == len(FLOWERS)
    assert {response.json()["id"] for response in others} < stored


async def test_predictions_with_a_lost_reply_is_503_and_the_next_is_200(
    client: AsyncClient, proxy: Proxy
) -> None:
    await ask(client)
    proxy.cut_answer("FROM iris_predictions")
    assert_problem(await client.get("/predictions"), 503, "database-unavailable")
    assert proxy.has_cut()
    assert (await client.get("/predictions")).status_code == 200


@pytest.mark.parametrize("patience", [1])
async def test_routes_while_postgresql_is_silent_are_503_in_time_and_200_after_it_recovers(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    assert (await ask(client)).status_code == 200
    proxy.swallow()
    began = time.monotonic()
    first, batch, page = await asyncio.gather(
        ask(client, SETOSA, "mine"), ask(client, BATCH), client.get("/predictions")
    )
    # The one connection was there, and what was sent on it may have arrived; others never were.
    slugs = sorted(response.json()["type"].rpartition(":")[2] for response in (first, batch))
    assert slugs in (
        ["database-unavailable", "outcome-unknown"],
        ["outcome-unknown", "outcome-unknown"],
        ["database-unavailable", "database-unavailable"],
    )
    assert_problem(page, 503, "database-unavailable")
    assert_problem(await ask(client), 503, "database-unavailable")
    assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert (await client.get("/livez")).status_code == 200
    assert time.monotonic() - began < LONG
    proxy.recover()
    assert (await ask(client, SETOSA, "mine")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 1


async def test_routes_while_postgresql_refuses_connections_are_503_and_store_nothing(
    client: AsyncClient, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    await proxy.vanish()
    for response in [await ask(client), await ask(client, BATCH), await client.get("/predictions")]:
        body = assert_problem(response, 503, "database-unavailable")
        assert "Nothing was stored" in body["detail"]
    assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert await count_rows(connection) == 0
    assert await metric(client, "iris_database_connections_in_use") == 0
    await proxy.listen()
    assert (await ask(client)).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
