"""Who may do what: API keys, scopes, and routes that need neither."""

import logging
import re

import asyncpg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from tests.integration.routes import CLOSED, NEEDED, OPEN, ask, assert_unauthorized, routes_of
from tests.support.application import (
    assert_problem,
    client_of,
    count_rows,
    make_key,
    running,
    started,
    store,
)
from tests.support.flowers import SETOSA

from iris_api.auth.api_keys import create_api_key, digest_of, revoke_api_key
from iris_api.callers import SCOPES
from iris_api.database.session import session_scope
from iris_api.settings import Settings


def test_access_of_every_route_is_open_or_needs_a_scope(app: FastAPI) -> None:
    assert routes_of(app) == OPEN | set(NEEDED)


@pytest.mark.parametrize("route", sorted(OPEN))
async def test_access_to_an_open_route_without_an_api_key_succeeds(
    guarded: FastAPI, route: str
) -> None:
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
async def test_access_to_a_closed_route_without_a_valid_api_key_is_401(
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


async def test_www_authenticate_has_invalid_token_only_after_a_bearer_token(
    guarded: FastAPI,
) -> None:
    """RFC 6750, section 3.1."""
    told = {}
    async with client_of(guarded) as client:
        for name in ("none", "another scheme", "no token", "unknown", "very long"):
            headers = [(b"Authorization", value) for value in WRONG_HEADERS[name]]
            response = await client.get("/model", headers=headers)
            told[name] = response.headers["WWW-Authenticate"]
    no_key, wrong_key = 'Bearer realm="iris-api"', 'Bearer realm="iris-api", error="invalid_token"'
    assert told == {
        "none": no_key,
        "another scheme": no_key,
        "no token": no_key,
        "unknown": wrong_key,
        "very long": wrong_key,
    }


async def test_access_with_a_valid_api_key_twice_or_malformed_is_401(
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
async def test_access_with_a_revoked_or_expired_api_key_is_401(
    guarded: FastAPI, keyed: Settings, connection: asyncpg.Connection, ending: str
) -> None:
    header = await make_key(keyed, scopes=SCOPES)
    await connection.execute(f"UPDATE api_keys SET {ending}")
    async with client_of(guarded, **header) as client:
        for route in CLOSED:
            assert_unauthorized(await ask(client, route, {}))


@pytest.mark.parametrize("scope", SCOPES)
async def test_access_with_the_scope_of_the_route_succeeds_and_with_another_is_403(
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
                assert response.headers["WWW-Authenticate"] == (
                    f'Bearer realm="iris-api", error="insufficient_scope", scope="{needed}"'
                )


async def test_api_key_is_in_no_response_log_or_table(
    guarded: FastAPI,
    keyed: Settings,
    connection: asyncpg.Connection,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    tokens = ["iris_" + "unknown" * 6]
    async with session_scope(keyed) as session:
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


async def test_access_with_auth_off_ignores_api_keys_and_is_the_anonymous_client(
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
        "SELECT name, count(*) FROM iris_predictions JOIN clients ON clients.id = client_id"
        " GROUP BY name ORDER BY name"
    )
    assert [tuple(row) for row in clients] == [("anonymous", 4), ("somebody", 1)]


async def test_routes_without_the_access_middleware_and_an_api_key_are_401(
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


async def test_predictions_with_an_unreachable_database_is_503_without_its_password(
    keyed: Settings,
) -> None:
    url = SecretStr("postgresql://iris:secret-word@127.0.0.1:9/iris")
    async with (
        started(keyed.model_copy(update={"database_url": url})) as app,
        client_of(app, Authorization="Bearer iris_x") as client,
    ):
        response = await client.get("/predictions")
    assert_problem(response, 503, "database-unavailable")
    assert not re.search("secret-word|127.0.0.1", response.text)
