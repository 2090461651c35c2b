"""Who may do what, and who may see what: API keys, scopes, and the walls between clients."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy import URL
from tests.conftest import execute
from tests.integration.support import (
    SETOSA,
    VIRGINICA,
    assert_problem,
    client_of,
    count_rows,
    make_key,
    metric,
    predict_once_noticed,
    running,
    started,
    store,
    until_pooler_tries_again,
)
from tests.integration.test_commit_before_answer import EXAMPLES, routes_of

from iris_api.database.api_keys import SCOPES, create_api_key, digest_of, revoke_api_key
from iris_api.database.session import one_session
from iris_api.settings import Settings

END_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'iris-api'"
)
OPEN = {
    "GET /",
    "GET /livez",
    "GET /readyz",
    "GET /openapi.json",
    "HEAD /openapi.json",
    "GET /docs",
    "MOUNT /docs/assets",
}
CLOSED = sorted(set(EXAMPLES) - OPEN)
NEEDED = {
    "POST /predict": "predict",
    "POST /predict/batch": "predict",
    "GET /predictions": "read",
    "GET /predictions/{prediction_id}": "read",
    "GET /model": "read",
    "GET /metrics": "admin",
}
CACHE_SECONDS = 0.2


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return settings.model_copy(update={"auth": "keys", "key_cache_seconds": CACHE_SECONDS})


@pytest.fixture
async def guarded(keyed: Settings) -> AsyncIterator[FastAPI]:
    """An application that asks for keys."""
    async with started(keyed) as app:
        yield app


async def ask(
    client: AsyncClient, route: str, headers: dict[str, str] | list[tuple[bytes, bytes]]
) -> Response:
    """Send a route its example."""
    method = route.split(maxsplit=1)[0].replace("MOUNT", "GET")
    example = EXAMPLES[route]
    return await client.request(method, example.url, json=example.body, headers=headers)


def assert_unauthorized(response: Response) -> None:
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_every_route_is_either_open_or_needs_a_scope(app: FastAPI) -> None:
    assert routes_of(app) == OPEN | set(NEEDED)


@pytest.mark.parametrize("route", sorted(OPEN))
async def test_an_open_route_needs_no_key(guarded: FastAPI, route: str) -> None:
    async with client_of(guarded) as client:
        assert (await ask(client, route, {})).status_code < 400


WRONG_HEADERS = {
    "none": [],
    "empty": [b""],
    "another scheme": [b"Basic aXJpczppcmlz"],
    "no token": [b"Bearer"],
    "an empty token": [b"Bearer  "],
    "the token alone": [b"iris_0123456789"],
    "unknown": [b"Bearer iris_0123456789"],
    "not text": [b"Bearer \xff\xfe"],
    "very long": [b"Bearer " + b"x" * 10_000],
    "two tokens": [b"Bearer a, Bearer b"],
}


@pytest.mark.parametrize("values", WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
async def test_no_closed_route_is_answered_without_a_valid_key(
    guarded: FastAPI, connection: asyncpg.Connection, values: list[bytes]
) -> None:
    await store(connection)
    async with client_of(guarded) as client:
        for route in CLOSED:
            headers = [(b"Authorization", value) for value in values]
            assert_unauthorized(await ask(client, route, headers))
        for path in ("/nowhere", "/predict/", "/docsx", "/livez/", "/docs/../predict"):
            assert_unauthorized(await client.get(path, headers=headers))
    assert await count_rows(connection) == 1


async def test_a_valid_key_that_comes_twice_or_malformed_is_refused(
    guarded: FastAPI, keyed: Settings
) -> None:
    right = (await make_key(keyed, scopes=SCOPES))["Authorization"].encode()
    token = right.removeprefix(b"Bearer ")
    async with client_of(guarded) as client:
        for values in ([right, right], [b"Basic " + token], [right + b" x"], [right[:-1]]):
            for route in CLOSED:
                headers = [(b"Authorization", value) for value in values]
                assert_unauthorized(await ask(client, route, headers))
        for value in (right, b"bearer " + token, b"BEARER  " + token + b" "):
            response = await client.get("/predictions", headers=[(b"Authorization", value)])
            assert response.status_code == 200


@pytest.mark.parametrize("ending", ["revoked_at = now()", "expires_at = now()"])
async def test_a_key_that_has_ended_is_refused_everywhere(
    guarded: FastAPI, keyed: Settings, connection: asyncpg.Connection, ending: str
) -> None:
    header = await make_key(keyed, scopes=SCOPES)
    await connection.execute(f"UPDATE api_keys SET {ending}")  # noqa: S608, of constants
    async with client_of(guarded, **header) as client:
        for route in CLOSED:
            assert_unauthorized(await ask(client, route, {}))


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_allows_what_its_scope_says_and_nothing_else(
    guarded: FastAPI, keyed: Settings, scope: str
) -> None:
    async with client_of(guarded, **await make_key(keyed, scopes=(scope,))) as client:
        for route, needed in NEEDED.items():
            response = await ask(client, route, {})
            if needed == scope:
                assert response.status_code in {200, 404}, route
            else:
                body = assert_problem(response, 403, "forbidden")
                assert f"`{needed}`" in body["detail"]


async def test_a_key_expires_on_time(guarded: FastAPI, keyed: Settings) -> None:
    async with one_session(keyed) as session:
        row, token = await create_api_key(session, "one", ["read"], timedelta(seconds=1))
    assert row.expires_at is not None
    async with client_of(guarded, Authorization=f"Bearer {token}") as client:
        status = (await client.get("/predictions")).status_code
        assert status == 200 or datetime.now(UTC) >= row.expires_at
        left = (row.expires_at - datetime.now(UTC)).total_seconds()
        await asyncio.sleep(max(0, left) + CACHE_SECONDS)  # by then it has to be refused
        assert_unauthorized(await client.get("/predictions"))


async def test_a_revoked_key_is_refused_as_soon_as_what_was_known_is_forgotten(
    guarded: FastAPI, keyed: Settings
) -> None:
    async with one_session(keyed) as session:
        row, token = await create_api_key(session, "one", ["read"])
        async with client_of(guarded, Authorization=f"Bearer {token}") as client:
            assert (await client.get("/predictions")).status_code == 200
            assert await revoke_api_key(session, row.id)
            await asyncio.sleep(CACHE_SECONDS)  # by then it has to be refused
            assert_unauthorized(await client.get("/predictions"))


async def test_a_key_is_asked_for_once_while_it_is_remembered(
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


async def test_known_keys_are_believed_while_the_database_is_gone_until_they_are_forgotten(
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
        app.state.resources.keyring._remembered.clear()  # as time will
        for route in CLOSED:
            assert_problem(await ask(client, route, {}), 503, "database-unavailable")
        await asyncio.to_thread(execute, server_url, f"{allow} true")
        await until_pooler_tries_again(keyed, client)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_a_flood_of_unknown_keys_takes_one_connection(
    guarded: FastAPI, connection: asyncpg.Connection
) -> None:
    resources = guarded.state.resources
    in_use: list[float] = []
    async with client_of(guarded) as client:

        async def try_key(number: int) -> int:
            response = await client.get(
                "/predictions", headers={"Authorization": f"Bearer iris_{number}"}
            )
            in_use.append(resources.metrics.connections_in_use._value.get())
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
    assert len(resources.keyring._remembered) <= 10_000


async def test_what_is_remembered_of_keys_is_bounded(
    guarded: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_api.database.keyring._MAX_REMEMBERED", 50)
    keyring = guarded.state.resources.keyring
    for first in range(0, 500, 100):
        await asyncio.gather(*(keyring.caller_of(f"{first + n}") for n in range(100)))
        assert len(keyring._remembered) == 50


async def test_a_key_is_nowhere_to_be_seen(
    guarded: FastAPI,
    keyed: Settings,
    connection: asyncpg.Connection,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    tokens = ["iris_" + "unknown" * 6]
    async with one_session(keyed) as session:
        for name, scopes in [("admin", SCOPES), ("reader", ("read",)), ("ended", SCOPES)]:
            row, token = await create_api_key(session, name, scopes)
            tokens.append(token)
        await revoke_api_key(session, row.id)
    async with client_of(guarded) as client:
        for token in tokens:
            for value in (f"Bearer {token}", f"Basic {token}", token, f"Bearer {token} x"):
                for route in CLOSED:
                    response = await ask(client, route, {"Authorization": value})
                    seen += [response.text, str(response.headers)]
        await connection.execute("ALTER TABLE api_keys RENAME TO elsewhere")
        for token in tokens:
            response = await client.get("/model", headers={"Authorization": f"Bearer {token}9"})
            seen += [response.text, str(response.headers)]
        await connection.execute("ALTER TABLE elsewhere RENAME TO api_keys")
    captured = capfd.readouterr()
    seen += [captured.out, captured.err, caplog.text]
    rows = []
    for table in ("api_keys", "idempotency_keys", "iris_predictions"):
        rows += [str(row) for row in await connection.fetch(f"TABLE {table}")]
    assert len(rows) >= 4
    for text in [*seen, *rows]:
        for token in tokens:
            assert token not in text
            assert token.removeprefix("iris_")[:20] not in text
    digests = await connection.fetch("SELECT digest FROM api_keys ORDER BY id")
    assert [row["digest"] for row in digests] == [digest_of(token) for token in tokens[1:]]


class Party:
    """A client with a key, and what it has predicted."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.answers: list[dict[str, Any]] = []

    async def predict(self, flower: dict[str, float], key: str | None = None) -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        response = await self.client.post("/predict", json=flower, headers=headers)
        if response.status_code == 200:
            self.answers.append(response.json())
        return response

    async def page(self, **query: object) -> dict[str, Any]:
        params = {name: str(value) for name, value in query.items()}
        response = await self.client.get("/predictions", params=params)
        assert response.status_code == 200
        body: dict[str, Any] = response.json()
        assert ("Link" in response.headers) == (body["next_cursor"] is not None)
        return body


@pytest.fixture
async def parties(guarded: FastAPI, keyed: Settings) -> AsyncIterator[tuple[Party, Party]]:
    """Client A, who has predicted, and client B, who has not yet."""
    async with (
        client_of(guarded, **await make_key(keyed, "a")) as of_a,
        client_of(guarded, **await make_key(keyed, "b")) as of_b,
    ):
        a, b = Party(of_a), Party(of_b)
        for number in range(5):
            assert (await a.predict(SETOSA, f"key-{number}")).status_code == 200
        yield a, b


async def test_another_clients_prediction_is_not_there(parties: tuple[Party, Party]) -> None:
    a, b = parties
    missing = await b.client.get("/predictions/999999")
    for answer in a.answers:
        path = f"/predictions/{answer['id']}"
        assert (await a.client.get(path)).status_code == 200
        theirs = await b.client.get(path)
        assert_problem(theirs, 404, "prediction-not-found")
        differing = {"instance", "request_id"}
        assert {k: v for k, v in theirs.json().items() if k not in differing} == {
            k: v for k, v in missing.json().items() if k not in differing
        }


async def test_another_clients_history_does_not_show_in_pages_counts_or_cursors(
    parties: tuple[Party, Party],
) -> None:
    a, b = parties
    empty: dict[str, Any] = {"items": [], "next_cursor": None}
    answer = a.answers[0]
    cursor = (await a.page(limit=2))["next_cursor"]
    filters: list[dict[str, object]] = [
        {},
        {"limit": 1},
        {"limit": 1, "skip": 3},
        {"cursor": cursor},
        {"label": answer["prediction_label"]},
        {"model_version": answer["model_version"]},
        {"since": answer["created_at"]},
        {"until": "2100-01-01T00:00:00Z"},
        {"label": "setosa", "model_version": answer["model_version"], "limit": 1},
    ]
    for query in filters:
        assert await b.page(**query) == empty, query
    await b.predict(VIRGINICA)
    for _ in range(3):
        await a.predict(VIRGINICA)
    for query in filters:
        page = await b.page(**query)
        assert page["next_cursor"] is None, query
        assert [item["id"] for item in page["items"]] in ([], [b.answers[0]["id"]]), query
    assert [item["id"] for item in (await b.page(limit=1))["items"]] == [b.answers[0]["id"]]


async def test_a_walk_of_pages_shows_each_client_its_own_rows_alone(
    parties: tuple[Party, Party],
) -> None:
    for _ in range(4):
        for party in parties:
            await party.predict(VIRGINICA)
    for party in parties:
        seen, cursor = [], None
        while True:
            page = await party.page(limit=2, **({"cursor": cursor} if cursor else {}))
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == sorted((answer["id"] for answer in party.answers), reverse=True)


@pytest.mark.parametrize("body", [SETOSA, VIRGINICA])
async def test_another_clients_idempotency_keys_mean_nothing(
    parties: tuple[Party, Party], body: dict[str, float]
) -> None:
    a, b = parties
    for number in range(5):
        response = await b.predict(body, f"key-{number}")
        assert response.status_code == 200
        assert response.json()["id"] not in [answer["id"] for answer in a.answers]
    batch = await b.client.post(
        "/predict/batch", json={"items": [body]}, headers={"Idempotency-Key": "batch"}
    )
    assert batch.status_code == 200
    again = await a.client.post(
        "/predict/batch", json={"items": [SETOSA] * 2}, headers={"Idempotency-Key": "batch"}
    )
    assert again.status_code == 200


async def test_ids_do_not_tell_how_much_others_predict(parties: tuple[Party, Party]) -> None:
    a, b = parties
    first = await b.predict(VIRGINICA)
    for number in range(10):
        await a.predict(VIRGINICA, f"another-{number}")
    await a.client.post("/predict/batch", json={"items": [SETOSA] * 100})
    second = await b.predict(VIRGINICA, "mine")
    batch = await b.client.post("/predict/batch", json={"items": [SETOSA] * 2})
    ids = [answer["id"] for answer in (first.json(), second.json(), *batch.json()["items"])]
    assert ids == list(range(ids[0], ids[0] + 4))
    assert ids[-1] < 2**53, "JSON's numbers are exact up to here, in any language"


async def test_a_group_of_several_clients_stores_for_each_its_own(
    parties: tuple[Party, Party], connection: asyncpg.Connection
) -> None:
    await asyncio.gather(
        *(party.predict(VIRGINICA, key) for party in parties for key in ("x", "y", None) * 10)
    )
    for name, party in zip("ab", parties, strict=True):
        rows = await connection.fetch("SELECT id FROM iris_predictions WHERE client = $1", name)
        assert {row["id"] for row in rows} == {answer["id"] for answer in party.answers}


async def test_metrics_are_for_admins_alone(
    guarded: FastAPI, keyed: Settings, parties: tuple[Party, Party]
) -> None:
    for party in parties:
        assert_problem(await party.client.get("/metrics"), 403, "forbidden")
    admin = await make_key(keyed, "admin", scopes=("admin",))
    async with client_of(guarded) as client:
        assert await metric(client, "iris_predictions_total", admin) == 5


async def test_open_access_asks_for_nothing_and_is_one_client_of_its_own(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    keyed = settings.model_copy(update={"auth": "keys"})
    header = await make_key(keyed, "somebody")
    async with started(keyed) as app, client_of(app, **header) as client:
        theirs = (await client.post("/predict", json=SETOSA)).json()
    async with running(settings.model_copy(update={"auth": "off"})) as client:
        for route in CLOSED:
            assert (await ask(client, route, {})).status_code < 400 or "{" in route
        assert_problem(
            await client.get(f"/predictions/{theirs['id']}"), 404, "prediction-not-found"
        )
        for headers in ({}, header, {"Authorization": "nonsense"}):
            page = (await client.get("/predictions", headers=headers)).json()
            assert len(page["items"]) == 4
            assert theirs["id"] not in [item["id"] for item in page["items"]]
    clients = await connection.fetch(
        "SELECT client, count(*) FROM iris_predictions GROUP BY client ORDER BY client"
    )
    assert [tuple(row) for row in clients] == [("anonymous", 4), ("somebody", 1)]


async def test_a_service_that_asks_for_keys_never_serves_anybody_by_accident(
    keyed: Settings,
) -> None:
    """Were the middleware forgotten, the endpoints would refuse all the same."""
    async with started(keyed) as app, client_of(app) as client:
        app.user_middleware = [
            one
            for one in app.user_middleware
            if "Access" not in one.cls.__name__  # type: ignore[attr-defined]
        ]
        app.middleware_stack = None
        for route in NEEDED:
            assert_unauthorized(await ask(client, route, {}))


async def test_the_databases_password_is_not_in_an_error(keyed: Settings) -> None:
    url = SecretStr("postgresql://iris:secret-word@127.0.0.1:9/iris")
    async with (
        started(keyed.model_copy(update={"database_url": url})) as app,
        client_of(app, Authorization="Bearer iris_x") as client,
    ):
        response = await client.get("/predictions")
    assert_problem(response, 503, "database-unavailable")
    assert not re.search("secret-word|127.0.0.1", response.text)
