"""All routes: those that are open, and those that are closed to who has no API key."""

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from httpx2 import AsyncClient, Response
from tests.support.application import assert_problem
from tests.support.flowers import SETOSA


@dataclass(frozen=True)
class Example:
    """A request that a route answers with success, and the rows that it writes."""

    url: str
    body: Any = None
    writes: int = 0


A_PREDICTION = "01a21e99-f9d4-7778-8827-92a9669936c1"
"""An id of no row; who wants success puts a stored one in its place."""
EXAMPLES = {
    "POST /predict": Example("/predict", SETOSA, writes=1),
    "POST /predict/batch": Example("/predict/batch", {"items": [SETOSA] * 3}, writes=3),
    "GET /predictions": Example("/predictions"),
    "GET /predictions/{prediction_id}": Example(f"/predictions/{A_PREDICTION}"),
    "GET /model": Example("/model"),
    "GET /livez": Example("/livez"),
    "GET /readyz": Example("/readyz"),
    "GET /metrics": Example("/metrics"),
    "GET /": Example("/"),
    "GET /docs": Example("/docs"),
    "GET /openapi.json": Example("/openapi.json"),
    "HEAD /openapi.json": Example("/openapi.json"),
    "MOUNT /docs/assets": Example("/docs/assets/swagger-ui.css"),
}


def routes_of(app: FastAPI) -> set[str]:
    """Every route, those that the OpenAPI document does not show included."""
    return {
        f"{method} {route.path}"
        for route in iter_route_contexts(app.routes)
        for method in getattr(route, "methods", None) or {"MOUNT"}
    }


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


async def ask(
    client: AsyncClient, route: str, headers: dict[str, str] | list[tuple[bytes, bytes]]
) -> Response:
    """Send a route its example."""
    method = route.split(maxsplit=1)[0].replace("MOUNT", "GET")
    example = EXAMPLES[route]
    return await client.request(method, example.url, json=example.body, headers=headers)


def assert_unauthorized(response: Response) -> None:
    """Hold a refusal against RFC 6750: it has an error code where the detail is about a key."""
    detail = assert_problem(response, 401, "unauthorized")["detail"]
    is_about_key = detail.startswith("This API key ")
    error = ', error="invalid_token"' if is_about_key else ""
    assert response.headers["WWW-Authenticate"] == f'Bearer realm="iris-api"{error}'
