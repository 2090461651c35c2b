"""The rate limit as clients see it, with and without API keys."""

import re

import pytest
from httpx2 import AsyncClient, Response
from tests.support.application import assert_problem, client_of, make_key, running, started
from tests.support.flowers import SETOSA

from iris_api.auth import rate_limit
from iris_api.settings import Settings

QUOTA, WINDOW = 3, 60


class Clock:
    """The limiter's clock, which stands still until the test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    defaults = {"clock": clock}
    monkeypatch.setattr(rate_limit.RateLimiter.__init__, "__kwdefaults__", defaults)
    return clock


@pytest.fixture
def limited(settings: Settings, clock: Clock) -> Settings:
    assert clock.now
    return settings.model_copy(update={"rate_limit": QUOTA, "rate_limit_window": WINDOW})


async def ask(client: AsyncClient) -> Response:
    return await client.get("/predictions")


def assert_refused(response: Response, seconds: int) -> None:
    body = assert_problem(response, 429, "rate-limited")
    assert f"{seconds} s" in body["detail"]
    assert response.headers["Retry-After"] == str(seconds)
    assert response.headers["RateLimit"] == f'"client";r=0;t={seconds}'
    assert response.headers["RateLimit-Policy"] == f'"client";q={QUOTA};w={WINDOW}'


async def test_rate_limit_headers_count_down_and_requests_past_the_limit_are_429(
    limited: Settings, clock: Clock
) -> None:
    async with running(limited) as client:
        for remaining in (2, 1, 0):
            response = await ask(client)
            assert response.status_code == 200
            assert response.headers["RateLimit"] == f'"client";r={remaining};t={WINDOW}'
            assert response.headers["RateLimit-Policy"] == f'"client";q={QUOTA};w={WINDOW}'
        clock.now += 12.5
        assert_refused(await ask(client), 48)
        assert_refused(await client.post("/predict", json=SETOSA), 48)
        clock.now += 48
        response = await ask(client)
        assert response.status_code == 200
        assert response.json()["items"] == [], "the refused prediction was stored"
        assert response.headers["RateLimit"] == f'"client";r=2;t={WINDOW}'


async def test_rate_limit_counts_error_responses(limited: Settings) -> None:
    async with running(limited) as client:
        responses = [
            await client.post("/predict", json={}),
            await client.get("/nowhere"),
            await client.get("/predictions/1"),
        ]
        assert [response.status_code for response in responses] == [422, 404, 404]
        left = [response.headers["RateLimit"] for response in responses]
        assert left == [f'"client";r={remaining};t={WINDOW}' for remaining in (2, 1, 0)]
        assert_refused(await ask(client), WINDOW)


async def test_rate_limit_does_not_apply_to_probes_and_docs(limited: Settings) -> None:
    async with running(limited) as client:
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs"):
            for _ in range(QUOTA + 1):
                response = await client.get(path)
                assert response.status_code == 200
                assert "RateLimit" not in response.headers
        assert (await ask(client)).headers["RateLimit"] == f'"client";r=2;t={WINDOW}'


async def test_rate_limit_of_a_client_is_shared_by_its_api_keys(
    limited: Settings,
) -> None:
    settings = limited.model_copy(update={"auth": "keys"})
    async with started(settings) as app:
        one, again, other = [await make_key(settings, name) for name in ("one", "one", "other")]
        async with client_of(app, **one) as first, client_of(app, **again) as second:
            assert [(await ask(client)).status_code for client in (first, second, first)] == [
                200
            ] * QUOTA
            for client in (first, second):
                assert_refused(await ask(client), WINDOW)
        async with client_of(app, **other) as client:
            assert (await ask(client)).headers["RateLimit"] == f'"client";r=2;t={WINDOW}'


async def test_rate_limit_does_not_count_requests_without_an_api_key(limited: Settings) -> None:
    settings = limited.model_copy(update={"auth": "keys"})
    async with started(settings) as app, client_of(app) as nobody:
        for _ in range(QUOTA + 1):
            response = await ask(nobody)
            assert response.status_code == 401
            assert not re.search("ratelimit", str(response.headers), re.IGNORECASE)
        async with client_of(app, **await make_key(settings)) as client:
            assert (await ask(client)).headers["RateLimit"] == f'"client";r=2;t={WINDOW}'


async def test_rate_limit_unset_sends_no_headers(client: AsyncClient) -> None:
    response = await ask(client)
    assert response.status_code == 200
    assert not re.search("ratelimit", str(response.headers), re.IGNORECASE)
