"""What is read is kept by no cache, and asked for by HEAD as well as by GET.

That the server leaves out the body is in tests/e2e.
"""

import json

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.integration.routes import A_PREDICTION, EXAMPLES, NEEDED, OPEN
from tests.support.application import assert_problem, client_of, make_key, metrics, running
from tests.support.flowers import SETOSA

from iris_api.settings import Settings

READ = sorted(
    route.removeprefix("GET ") for route in OPEN | set(NEEDED) if route.startswith("GET ")
)


def fields_of(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name != "x-request-id"}


async def url_with_success(client: AsyncClient, route: str) -> str:
    stored = (await client.post("/predict", json=SETOSA)).json()
    return EXAMPLES[f"GET {route}"].url.replace(A_PREDICTION, stored["id"])


@pytest.mark.parametrize("route", [route for route in READ if route != "/metrics"])
async def test_head_has_the_status_and_the_headers_of_get(client: AsyncClient, route: str) -> None:
    url = await url_with_success(client, route)
    get, head = await client.get(url), await client.head(url)
    assert head.status_code == get.status_code < 400
    assert fields_of(head) == fields_of(get)


@pytest.mark.parametrize("route", [route for route in READ if route != "/openapi.json"])
async def test_get_has_cache_control_no_store(client: AsyncClient, route: str) -> None:
    response = await client.get(await url_with_success(client, route))
    assert response.status_code < 400
    assert response.headers.get_list("Cache-Control") == ["no-store"]


async def test_head_of_metrics_is_200(client: AsyncClient) -> None:
    """They grow from one request to the next."""
    response = await client.head("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/nowhere", 404, "not-found"),
        ("/predictions/1", 404, "prediction-not-found"),
        ("/predictions/x", 422, "invalid-request"),
        ("/predictions?limit=0", 422, "invalid-request"),
    ],
)
async def test_head_of_an_invalid_request_has_the_status_of_get(
    client: AsyncClient, path: str, status: int, slug: str
) -> None:
    get, head = await client.get(path), await client.head(path)
    assert_problem(get, status, slug)
    assert head.status_code == status
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize(
    "path", [EXAMPLES[route].url for route in NEEDED if route.startswith("GET ")]
)
async def test_head_without_an_api_key_is_401_and_without_its_scope_is_403(
    guarded: FastAPI, keyed: Settings, path: str
) -> None:
    async with client_of(guarded) as client:
        refusal = await client.head(path)
        assert refusal.status_code == 401
        assert refusal.headers["WWW-Authenticate"] == 'Bearer realm="iris-api"'
        predictor = await make_key(keyed, scopes=("predict",))
        assert (await client.head(path, headers=predictor)).status_code == 403


async def test_head_counts_for_the_rate_limit(settings: Settings) -> None:
    async with running(settings.model_copy(update={"rate_limit": 2})) as client:
        left = [(await client.head("/model")).headers["RateLimit"][:12] for _ in range(2)]
        assert left == ['"client";r=1', '"client";r=0']
        assert (await client.head("/model")).status_code == 429


async def test_head_is_in_the_log_and_the_metrics(
    client: AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in ("/predictions/1", "/readyz", "/docs"):
        await client.head(path)
    counted = {
        (labels["method"], labels["route"])
        for name, pairs in await metrics(client)
        if name == "iris_http_requests_total"
        for labels in [dict(pairs)]
    }
    assert counted == {
        ("HEAD", route) for route in ("/predictions/{prediction_id}", "/readyz", "/docs")
    }
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "HEAD" in line]
    assert [line["path"] for line in logged] == ["/predictions/1", "/readyz", "/docs"]
