"""What a service says of its parts."""

from typing import Any

from httpx2 import AsyncClient
from tests.support.application import assert_problem

PARTS = {"database", "schema", "model"}


async def checks(client: AsyncClient) -> dict[str, str]:
    """The state of each part, whether all are there or not."""
    response = await client.get("/readyz")
    body: dict[str, Any] = response.json()
    if response.status_code == 200:
        assert body["status"] == "ready"
    else:
        assert_problem(response, 503, "not-ready")
    assert set(body["checks"]) == PARTS
    assert all(check["detail"] for check in body["checks"].values())
    return {part: check["status"] for part, check in body["checks"].items()}


async def assert_alive(client: AsyncClient) -> None:
    response = await client.get("/livez")
    assert response.status_code == 200
    assert response.json() == {"status": "alive"}
