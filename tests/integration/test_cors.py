"""Web pages of other origins: what a browser asks, and what it lets a page read."""

from collections.abc import AsyncIterator

import pytest
from httpx2 import AsyncClient, Response
from tests.support.application import assert_problem, client_of, running, started
from tests.support.flowers import SETOSA

from iris_api.inference import Classifier
from iris_api.settings import Settings

PAGE = "https://app.example.org"
OTHER = "https://other.example.org"


@pytest.fixture
async def opened(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A service that a page of `PAGE` may call."""
    async with running(settings.model_copy(update={"cors_origins": (PAGE,)})) as client:
        yield client


async def preflight(client: AsyncClient, path: str, method: str, **headers: str) -> Response:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": method, **headers}
    return await client.options(path, headers=asked)


def assert_readable(response: Response, origin: str = PAGE) -> None:
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize("origins", [None, (PAGE,)])
async def test_routes_without_an_origin_have_no_cross_origin_headers(
    settings: Settings, origins: tuple[str, ...] | None
) -> None:
    async with running(settings.model_copy(update={"cors_origins": origins})) as client:
        response = await client.post("/predict", json=SETOSA)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_preflight_without_cors_origins_is_405(client: AsyncClient) -> None:
    assert_problem(await preflight(client, "/predict", "POST"), 405, "method-not-allowed")
    response = await client.get("/livez", headers={"Origin": PAGE})
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/predictions"), ("HEAD", "/model")]
)
async def test_preflight_of_an_allowed_origin_is_200(
    opened: AsyncClient, method: str, path: str
) -> None:
    headers = "authorization, content-type, idempotency-key, prediction-reference, x-request-id"
    response = await preflight(opened, path, method, **{"Access-Control-Request-Headers": headers})
    assert response.status_code == 200
    assert_readable(response)
    assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
    allowed = response.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert set(headers.split(", ")) <= set(allowed)
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": OTHER},
        {"Origin": "null"},
        {"Origin": PAGE + ":8443"},
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Headers": "x-api-key"},
    ],
)
async def test_preflight_of_another_origin_method_or_header_is_403(
    opened: AsyncClient, headers: dict[str, str]
) -> None:
    response = await preflight(opened, "/predict", "POST", **headers)
    problem = assert_problem(response, 403, "cross-origin-refused")
    assert "IRIS_CORS_ORIGINS" in problem["detail"]
    assert OTHER not in response.text


async def test_predict_of_an_allowed_origin_lets_the_page_read_its_headers(
    opened: AsyncClient,
) -> None:
    response = await opened.post("/predict", json=SETOSA, headers={"Origin": PAGE})
    assert response.status_code == 200
    assert_readable(response)
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Content-Location", "X-Request-ID"} <= set(exposed)
    await opened.post("/predict", json=SETOSA)
    page = await opened.get("/predictions?limit=1&since=2026-01-01T00:00:00Z")
    assert {"Link", "Settled-Until"} <= set(exposed)
    assert "Link" in page.headers
    assert "Settled-Until" in page.headers


async def test_predict_of_another_origin_has_no_allowed_origin(opened: AsyncClient) -> None:
    response = await opened.post("/predict", json=SETOSA, headers={"Origin": OTHER})
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_problems_of_each_layer_are_readable_by_an_allowed_origin(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Classifier, "predict", fail)
    changes = {"cors_origins": (PAGE,), "rate_limit": 3, "max_body_bytes": 1024}
    async with (
        started(settings.model_copy(update=changes)) as app,
        client_of(app, Origin=PAGE) as client,
    ):
        too_large = await client.post("/predict", content=b" " * 2000)
        invalid = await client.post("/predict", json={})
        missing = await client.get("/nowhere")
        defect = await client.post("/predict", json=SETOSA)
        limited = await client.get("/predictions")
    assert_problem(too_large, 413, "body-too-large")
    assert_problem(invalid, 422, "invalid-request")
    assert_problem(missing, 404, "not-found")
    assert_problem(defect, 500, "internal-error")
    assert_problem(limited, 429, "rate-limited")
    for response in (too_large, invalid, missing, defect, limited):
        assert_readable(response)
    exposed = set(limited.headers["Access-Control-Expose-Headers"].split(", "))
    for name in ("RateLimit", "RateLimit-Policy", "Retry-After"):
        assert name in limited.headers
        assert name in exposed


@pytest.mark.parametrize(("origins", "allowed"), [((PAGE,), PAGE), (("*",), "*")])
async def test_preflight_of_a_service_with_api_keys_needs_none(
    keyed: Settings, origins: tuple[str, ...], allowed: str
) -> None:
    async with running(keyed.model_copy(update={"cors_origins": origins})) as client:
        response = await preflight(
            client, "/predict", "POST", **{"Access-Control-Request-Headers": "authorization"}
        )
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == allowed
        refused = await client.post("/predict", json=SETOSA, headers={"Origin": PAGE})
    assert_problem(refused, 401, "unauthorized")
    assert refused.headers["Access-Control-Allow-Origin"] == allowed
    assert "WWW-Authenticate" in refused.headers["Access-Control-Expose-Headers"]
