"""API keys are looked up once, and remembered for a while."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from fastapi import FastAPI
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import execute
from tests.integration.routes import CLOSED, ask, assert_unauthorized
from tests.integration.trouble import (
    END_CONNECTIONS,
    predict_once_noticed,
    until_pooler_tries_again,
)
from tests.support.application import assert_problem, client_of, make_key, started
from tests.support.flowers import SETOSA

from iris_api.auth import key_cache
from iris_api.auth.api_keys import create_api_key, find_callers, revoke_api_key
from iris_api.auth.key_cache import ApiKeyCache
from iris_api.callers import Caller
from iris_api.database.session import session_scope
from iris_api.settings import Settings


async def test_predictions_after_the_api_key_expires_is_401_within_key_cache_seconds(
    guarded: FastAPI, keyed: Settings
) -> None:
    async with session_scope(keyed) as session:
        row, token = await create_api_key(session, "one", ["read"], timedelta(seconds=1))
    assert row.expires_at is not None
    async with client_of(guarded, Authorization=f"Bearer {token}") as client:
        status = (await client.get("/predictions")).status_code
        assert status == 200 or datetime.now(UTC) >= row.expires_at
        left = (row.expires_at - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0, left) + keyed.key_cache_seconds)  # by then it has to be refused
        assert_unauthorized(await client.get("/predictions"))


async def test_predictions_after_the_api_key_is_revoked_is_401_within_key_cache_seconds(
    guarded: FastAPI, keyed: Settings
) -> None:
    async with session_scope(keyed) as session:
        row, token = await create_api_key(session, "one", ["read"])
        async with client_of(guarded, Authorization=f"Bearer {token}") as client:
            assert (await client.get("/predictions")).status_code == 200
            assert await revoke_api_key(session, row.id)
            await asyncio.sleep(keyed.key_cache_seconds)  # by then it has to be refused
            assert_unauthorized(await client.get("/predictions"))


async def test_revoke_api_key_twice_keeps_the_first_revoked_at(
    keyed: Settings, connection: asyncpg.Connection
) -> None:
    async with session_scope(keyed) as session:
        row, _ = await create_api_key(session, "one", ["read"])
        times = []
        for _ in range(2):
            assert await revoke_api_key(session, row.id)
            times.append(await connection.fetchval("SELECT revoked_at FROM api_keys"))
    assert times[0] is not None
    assert times[1] == times[0]


async def test_api_key_cache_with_a_key_revoked_during_its_lookup_refuses_it_next_time(
    guarded: FastAPI, keyed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with session_scope(keyed) as session:
        row, token = await create_api_key(session, "one", ["read"])

    async def find_slowly(session: AsyncSession, digests: Collection[bytes]) -> dict[bytes, Caller]:
        found = await find_callers(session, digests)
        await revoke_api_key(session, row.id)
        await asyncio.sleep(0.3)
        return found

    monkeypatch.setattr(key_cache, "find_callers", find_slowly)
    keys = ApiKeyCache(guarded.state.resources.session_factory, ttl_seconds=0.2)
    assert await keys.authenticate(token) is not None
    assert await keys.authenticate(token) is None


async def test_api_key_cache_looks_up_a_cached_key_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    keyed = settings.model_copy(update={"auth": "keys", "key_cache_seconds": 3600.0})
    header = await make_key(keyed)
    async with started(keyed) as app, client_of(app, **header) as client:
        assert (await client.get("/predictions")).status_code == 200
        await connection.execute("DELETE FROM api_keys")
        assert (await client.get("/predictions")).status_code == 200
        await connection.execute("ALTER TABLE api_keys RENAME TO elsewhere")
        response = await client.get("/predictions", headers={"Authorization": "Bearer other"})
        assert_problem(response, 503, "schema-outdated")
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_api_key_cache_without_database_accepts_cached_keys_until_they_are_evicted(
    settings: Settings, server_url: URL, database: URL
) -> None:
    keyed = settings.model_copy(update={"auth": "keys", "key_cache_seconds": 3600.0})
    header = await make_key(keyed)
    allow = f"ALTER DATABASE {database.database} WITH ALLOW_CONNECTIONS"
    async with started(keyed) as app, client_of(app, **header) as client:
        assert (await client.get("/model")).status_code == 200
        await asyncio.to_thread(execute, server_url, f"{allow} false")
        await asyncio.to_thread(execute, server_url, END_CONNECTIONS)
        assert (await client.get("/model")).status_code == 200
        # The key is known; it is the prediction for which there is no database.
        assert_problem(await predict_once_noticed(client), 503, "database-unavailable")
        app.state.resources.api_key_cache._remembered.clear()  # as time will
        for route in CLOSED:
            assert_problem(await ask(client, route, {}), 503, "database-unavailable")
        await asyncio.to_thread(execute, server_url, f"{allow} true")
        await until_pooler_tries_again(keyed, client)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_api_key_cache_with_500_unknown_keys_uses_one_connection(
    guarded: FastAPI, connection: asyncpg.Connection
) -> None:
    resources = guarded.state.resources
    in_use: list[float] = []
    async with client_of(guarded) as client:

        async def try_key(number: int) -> int:
            response = await client.get(
                "/predictions", headers={"Authorization": f"Bearer iris_{number}"}
            )
            in_use.append(resources.engine.pool.checkedout())
            return response.status_code

        statuses = await asyncio.gather(*(try_key(number) for number in range(500)))
    assert set(statuses) == {401}
    assert max(in_use) <= 1
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'iris-api'"
        )
        <= 1
    )
    assert len(resources.api_key_cache._remembered) <= 10_000


async def test_api_key_cache_with_500_keys_keeps_its_maximum_size(
    guarded: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_api.auth.key_cache._MAX_REMEMBERED", 50)
    api_key_cache = guarded.state.resources.api_key_cache
    for first in range(0, 500, 100):
        await asyncio.gather(*(api_key_cache.authenticate(f"{first + n}") for n in range(100)))
        assert len(api_key_cache._remembered) == 50
