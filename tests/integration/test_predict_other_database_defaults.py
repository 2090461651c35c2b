"""A database whose defaults are not PostgreSQL's serves as any other."""

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import execute
from tests.integration.repeats import BATCH, ask, assert_same
from tests.integration.states import PARTS, checks
from tests.support.application import count_rows, running
from tests.support.flowers import SETOSA

from iris_api.database import IrisFeatures, IrisPrediction, create_prediction
from iris_api.settings import Settings

LEVELS = ["serializable", "repeatable read"]
DEFAULTS = [
    *(f"default_transaction_isolation = '{level}'" for level in LEVELS),
    "default_transaction_deferrable = on",
    "DateStyle = 'German, DMY'",
    "IntervalStyle = sql_standard",
    "standard_conforming_strings = off",
    "extra_float_digits = -15",
    "transform_null_equals = on",
    "plan_cache_mode = force_generic_plan",
    "TimeZone = 'Pacific/Kiritimati'",
    "client_encoding = LATIN1",
]


@pytest.mark.parametrize("default", DEFAULTS)
async def test_predict_and_predictions_with_other_database_defaults_are_200(
    settings: Settings, session: AsyncSession, database: URL, default: str
) -> None:
    change = f"ALTER DATABASE {database.database} SET {default}"
    await asyncio.to_thread(execute, database, change)
    row = IrisPrediction.from_request(IrisFeatures(**SETOSA), 0)
    assert (await create_prediction(session, row)).id.version == 7
    async with running(settings) as client:
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        first = [await ask(client, "mine"), await ask(client, "ours", BATCH, "/predict/batch")]
        again = [await ask(client, "mine"), await ask(client, "ours", BATCH, "/predict/batch")]
        assert [one.content for one in again] == [one.content for one in first]
        page = (await client.get("/predictions", params={"since": "2026-01-01T00:00:00Z"})).json()
        assert len(page["items"]) == 5
        assert page["items"][-2] == {**first[0].json(), **SETOSA, "reference": None}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("path", "body"), [("/predict", SETOSA), ("/predict/batch", BATCH)])
async def test_predict_with_one_idempotency_key_at_any_isolation_level_stores_once(
    settings: Settings,
    connection: asyncpg.Connection,
    database: URL,
    path: str,
    body: dict[str, Any],
    level: str,
) -> None:
    name = database.database
    change = f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
    await asyncio.to_thread(execute, database, change)
    async with running(settings) as one, running(settings) as other:
        for number in range(10):
            asked = [ask(client, f"key-{number}", body, path) for client in [one, other] * 10]
            assert_same(await asyncio.gather(*asked))
        assert await checks(one) == await checks(other) == dict.fromkeys(PARTS, "ok")
    assert await count_rows(connection) == 10 * len(body.get("items", [body]))
