"""What becomes of connections that are lost or silent: when made, in use, at a session's end."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any, cast

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import event
from starlette.types import Message
from tests.support.application import assert_problem, client_of, engine_of, make_key
from tests.support.flowers import POISON, SETOSA

from iris_api.callers import ANONYMOUS_CALLER
from iris_api.database import IrisFeatures, create_engine
from iris_api.database.pool import guard_of
from iris_api.errors import DatabaseUnavailable, NotStored
from iris_api.iris import ClassPrediction
from iris_api.recording.inserts import batch_transaction
from iris_api.recording.rows import NewPrediction
from iris_api.settings import Settings


async def whenever_one_is_made(app: FastAPI, listener: Callable[[Any, Any], None]) -> None:
    """Call it with each connection that is made from now on, and with the pool's entry."""
    engine = engine_of(app)
    await engine.dispose()
    event.listen(engine.sync_engine, "connect", listener)


async def test_predict_with_a_new_connection_after_invalidate_all_is_200(
    app: FastAPI, client: AsyncClient
) -> None:
    assert (await client.post("/predict", json=SETOSA)).status_code == 200  # it names the model
    made = []

    def lose_the_others(connection: Any, entry: Any) -> None:
        made.append(connection)
        guard_of(entry).invalidate_all()

    await whenever_one_is_made(app, lose_the_others)
    for number in range(1, 4):  # each of them is distrusted at its second use
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        assert len(made) == number


async def test_predict_with_a_new_connection_lost_at_once_is_503(
    app: FastAPI, client: AsyncClient
) -> None:
    def lose_it(connection: Any, _entry: object) -> None:
        connection.driver_connection.terminate()

    await whenever_one_is_made(app, lose_it)
    detail = assert_problem(
        await client.post("/predict", json=SETOSA), 503, "database-unavailable"
    )["detail"]
    assert "PostgreSQL disconnected. Nothing was stored." in detail


def lose_all_at_their_end(app: FastAPI) -> list[object]:
    """Have each session's connection break where it is about to roll back; return which did."""
    lost: list[object] = []

    def lose(connection: Any) -> None:
        lost.append(connection)
        connection.connection.driver_connection.terminate()

    event.listen(engine_of(app).sync_engine, "rollback", lose)
    return lost


async def test_predictions_and_readyz_with_a_connection_lost_at_rollback_keep_their_response(
    guarded: FastAPI, keyed: Settings
) -> None:
    async with client_of(guarded, **await make_key(keyed)) as client:
        lost = lose_all_at_their_end(guarded)
        assert (await client.get("/predictions")).status_code == 200
        assert len(lost) == 2  # the key's, and the history's
        response = await client.get("/predictions/1")
        assert_problem(response, 404, "prediction-not-found")
        assert (await client.get("/readyz")).status_code == 200
    pool: Any = engine_of(guarded).sync_engine.pool
    assert pool.checkedout() == 0


async def test_predictions_returns_its_connection_before_the_response_starts(
    app: FastAPI,
) -> None:
    """Else a client who does not read keeps it for as long."""
    pool: Any = engine_of(app).sync_engine.pool
    in_use = []

    async def send(message: Message) -> None:
        in_use.append((message["type"], pool.checkedout()))

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {
        "type": "http", "method": "GET", "path": "/predictions", "raw_path": b"/predictions",
        "query_string": b"", "headers": [], "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    assert in_use == [("http.response.start", 0), ("http.response.body", 0)]


async def test_recorder_with_a_refused_row_and_a_full_disk_in_one_group_reports_both(
    app: FastAPI, client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await connection.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.sepal_length = 6.66 THEN RAISE EXCEPTION 'poison'; END IF;
            RAISE EXCEPTION USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON iris_predictions
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    answer = ClassPrediction(0, "setosa", None, None)
    group = [
        NewPrediction(ANONYMOUS_CALLER, IrisFeatures(**features).as_row(), answer)
        for features in (POISON, SETOSA)
    ]
    record = app.state.resources.recorder.record
    outcomes = await asyncio.gather(*map(record, group), return_exceptions=True)
    assert isinstance(outcomes[0], NotStored)
    assert isinstance(outcomes[1], DatabaseUnavailable)
    assert "53100" in (await client.get("/readyz")).text


async def test_batch_transaction_past_the_command_timeout_raises_and_closes_its_connection(
    settings: Settings,
) -> None:
    """asyncpg's own bound on a statement does not end a COPY that waits for the network."""
    settings = settings.model_copy(update={"database_command_timeout": 0.1})
    engine = create_engine(settings)
    with closing(await engine.raw_connection()) as pooled:
        async with asyncio.timeout(20):
            with pytest.raises(TimeoutError):
                async with batch_transaction(pooled):
                    await asyncio.Event().wait()
        driver: asyncpg.Connection = cast(Any, pooled).driver_connection
        assert driver.is_closed()
    await engine.dispose()
