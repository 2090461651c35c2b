"""All routes: those that are open, and those that are closed to who has no API key."""

from httpx2 import AsyncClient, Response
from tests.integration.test_routes_commit_before_response import EXAMPLES
from tests.support.application import assert_problem

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
