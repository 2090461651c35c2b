"""What becomes of connections that are lost while others are made."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import event
from tests.integration.support import SETOSA, assert_problem, engine_of

from iris_api.database.pool import watch_of


async def whenever_one_is_made(app: FastAPI, listener: Callable[[Any, Any], None]) -> None:
    """Call it with each connection that is made from now on, and with the pool's entry."""
    engine = engine_of(app)
    await engine.dispose()
    event.listen(engine.sync_engine, "connect", listener)


async def test_a_new_connection_is_used_though_others_were_lost_meanwhile(
    app: FastAPI, client: AsyncClient
) -> None:
    made = []

    def lose_the_others(connection: Any, entry: Any) -> None:
        made.append(connection)
        watch_of(entry).distrust()

    await whenever_one_is_made(app, lose_the_others)
    for number in range(1, 4):  # each of them is distrusted at its second use
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert len(made) == number


async def test_a_new_connection_that_is_lost_at_once_is_not_the_services_fault(
    app: FastAPI, client: AsyncClient
) -> None:
    def lose_it(connection: Any, _entry: object) -> None:
        connection.driver_connection.terminate()

    await whenever_one_is_made(app, lose_it)
    detail = assert_problem(
        await client.post("/predict", json=SETOSA), 503, "database-unavailable"
    )["detail"]
    assert "PostgreSQL broke off. Nothing was stored." in detail
