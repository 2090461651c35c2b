"""Servers that cannot be had, go away, or take no writes: what is said, and what is done then."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import URL, make_url
from tests.conftest import execute, settings_for
from tests.integration.states import PARTS, assert_alive, checks
from tests.integration.trouble import (
    END_CONNECTIONS,
    predict_once_noticed,
    running_unpooled,
    set_everywhere,
    until_pooler_tries_again,
)
from tests.support.application import assert_problem, running
from tests.support.flowers import SETOSA

from iris_api.database import IrisFeatures, IrisPrediction, create_prediction
from iris_api.database.session import require_durable
from iris_api.errors import DatabaseUnavailable
from iris_api.settings import Settings

POOR = "iris_without_rights"


@pytest.fixture
def nobodys_port() -> Iterator[int]:
    """A port that is taken, but where nobody listens: connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


FOR_GOOD = ("no such database", "wrong password")


async def test_database_url_with_several_hosts_uses_the_first_reachable_host(
    nobodys_port: int, database: URL, data_dir: Path
) -> None:
    query = {
        "host": f"127.0.0.1,{database.query.get('host', database.host)}",
        "port": f"{nobodys_port},{database.port or 5432}",
    }
    text = database.set(query=query).render_as_string(hide_password=False)
    own = Settings.model_validate({"database_url": text, "data_dir": data_dir})
    async with running(own) as client:
        assert await checks(client) == dict.fromkeys(PARTS, "ok")


@pytest.fixture(params=["nobody listens", *FOR_GOOD])
def unreachable(request: pytest.FixtureRequest, nobodys_port: int, server_url: URL) -> URL:
    """A database that cannot be had, for one of several reasons."""
    if request.param == "nobody listens":
        return make_url(f"postgresql://iris:secret-word@127.0.0.1:{nobodys_port}/iris")
    if request.param == "no such database":
        return server_url.set(database="iris_nowhere")
    return server_url.set(username="nobody_known", password="secret-word")  # noqa: S106, no secret


async def test_routes_while_the_database_is_unreachable_are_503_and_livez_is_200(
    request: pytest.FixtureRequest, unreachable: URL, data_dir: Path
) -> None:
    told = "Check" if request.node.callspec.params["unreachable"] in FOR_GOOD else "Try again"
    async with running(settings_for(unreachable, data_dir)) as client:
        await assert_alive(client)
        assert await checks(client) == {"database": "failed", "schema": "unknown", "model": "ok"}
        for response in [
            await client.post("/predict", json=SETOSA),
            await client.post("/predict/batch", json={"items": [SETOSA]}),
            await client.get("/predictions"),
            await client.get("/predictions/1"),
        ]:
            body = assert_problem(response, 503, "database-unavailable")
            assert "Nothing was stored." in body["detail"]
            assert [word for word in ("Check", "Try again") if word in body["detail"]] == [told]
            assert int(response.headers["Retry-After"]) > 0
            assert "secret-word" not in response.text
            assert str(unreachable.port) not in response.text
        assert "stored" not in (await client.get("/readyz")).text
        assert (await client.get("/model")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200


async def test_predict_and_predictions_with_a_role_without_grants_are_503_and_name_the_grant(
    database: URL, data_dir: Path
) -> None:
    await asyncio.to_thread(execute, database, f"CREATE ROLE {POOR} LOGIN PASSWORD 'secret-word'")
    try:
        poor = database.set(username=POOR, password="secret-word")  # noqa: S106, no secret
        text = poor.render_as_string(hide_password=False)
        own = Settings.model_validate({"database_url": text, "data_dir": data_dir})
        async with running(own) as client:
            for request in (client.post("/predict", json=SETOSA), client.get("/predictions")):
                response = await request
                detail = assert_problem(response, 503, "database-unavailable")["detail"]
                assert "Grant the role" in detail
                assert "Try again" not in detail
    finally:
        await asyncio.to_thread(execute, database, f"DROP ROLE {POOR}")


async def test_predict_after_terminated_connections_is_200(
    client: AsyncClient, server_url: URL
) -> None:
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    await asyncio.to_thread(execute, server_url, END_CONNECTIONS)
    assert (await predict_once_noticed(client)).status_code == 200
    assert await checks(client) == dict.fromkeys(PARTS, "ok")


async def test_predict_while_the_database_allows_no_connections_is_503_and_afterwards_200(
    client: AsyncClient, settings: Settings, server_url: URL, database: URL
) -> None:
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    name = database.database
    gone = f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"
    await asyncio.to_thread(execute, server_url, gone)
    await asyncio.to_thread(execute, server_url, END_CONNECTIONS)
    assert_problem(await predict_once_noticed(client), 503, "database-unavailable")
    assert (await checks(client))["database"] == "failed"
    await assert_alive(client)
    await asyncio.to_thread(
        execute, server_url, f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"
    )
    await until_pooler_tries_again(settings, client)
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert await checks(client) == dict.fromkeys(PARTS, "ok")


READ_ONLY = "default_transaction_read_only"


async def store_by_a_session(app: FastAPI) -> UUID:
    """The row that the customer's way stores."""
    async with app.state.session_factory() as session:
        row = IrisPrediction.from_request(IrisFeatures(**SETOSA), 0)
        return (await create_prediction(session, row)).id


async def test_predict_on_a_read_only_connection_is_503_and_the_next_is_200(
    settings: Settings, database: URL
) -> None:
    """A standby answers reads for ever, so its connections do not close by themselves."""
    async with running_unpooled(settings, database) as (app, client):
        for path, body in (("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA]})):
            await set_everywhere(app, READ_ONLY, "on")
            response = await client.post(path, json=body)
            assert "25006" in assert_problem(response, 503, "database-unavailable")["detail"]
            assert (await client.post(path, json=body)).status_code == 200
        await set_everywhere(app, READ_ONLY, "on")
        with pytest.raises(DatabaseUnavailable):
            await store_by_a_session(app)
        assert (await store_by_a_session(app)).version == 7


async def test_readyz_and_predict_while_postgresql_is_read_only_are_503(
    settings: Settings, database: URL, server_url: URL
) -> None:
    async with running_unpooled(settings, database) as (app, client):
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        name = database.database
        set_default = f"ALTER DATABASE {name} SET {READ_ONLY}"
        await asyncio.to_thread(execute, server_url, f"{set_default} = on")
        await set_everywhere(app, READ_ONLY, "on")
        assert (await checks(client))["database"] == "failed"
        assert "takes no writes" in (await client.get("/readyz")).json()["detail"]
        response = await client.post("/predict", json=SETOSA)
        body = assert_problem(response, 503, "database-unavailable")
        assert "takes no writes" in body["detail"]
        await require_durable(settings)  # it starts all the same: the primary may come back
        await asyncio.to_thread(execute, server_url, f"{set_default} = off")
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
