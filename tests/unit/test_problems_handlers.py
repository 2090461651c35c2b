from typing import Annotated

import pytest
from fastapi import FastAPI, HTTPException, Query
from httpx2 import ASGITransport, AsyncClient

from iris_api.errors import BodyTooLarge, PredictionNotFound
from iris_api.web.problems import install_problem_handlers


@pytest.fixture
def client() -> AsyncClient:
    """A client of a small application that has the handlers and nothing else."""
    app = FastAPI()
    install_problem_handlers(app)

    @app.get("/numbers")
    async def numbers(limit: Annotated[int, Query(ge=1)]) -> int:
        return limit

    @app.get("/missing")
    async def missing() -> None:
        raise PredictionNotFound("No prediction has this id.")

    @app.get("/raise/{status}")
    async def fail(status: int) -> None:
        raise HTTPException(status, "The server's own words.")

    @app.get("/large")
    async def large() -> None:
        raise BodyTooLarge("Send less.")

    return AsyncClient(transport=ASGITransport(app=app), base_url="http://iris")


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/numbers?limit=0", 422, "invalid-request"),
        ("GET", "/missing", 404, "prediction-not-found"),
        ("GET", "/nowhere", 404, "not-found"),
        ("DELETE", "/numbers", 405, "method-not-allowed"),
        ("GET", "/raise/400", 400, "malformed-body"),
        ("GET", "/large", 413, "body-too-large"),
    ],
)
async def test_problem_handlers_answer_every_error_as_a_problem(
    client: AsyncClient, method: str, path: str, status: int, slug: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:iris-api:problem:{slug}"
    assert response.json()["instance"] == path.partition("?")[0]


async def test_problem_handlers_with_another_method_answer_405_with_allow(
    client: AsyncClient,
) -> None:
    response = await client.delete("/numbers")
    assert response.headers["Allow"] == "GET"
    assert response.json()["detail"] == "This path takes GET."


async def test_problem_handlers_with_an_unused_status_reraise_the_exception(
    client: AsyncClient,
) -> None:
    with pytest.raises(HTTPException, match="418"):
        await client.get("/raise/418")
