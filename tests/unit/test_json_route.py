from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from httpx2 import ASGITransport, AsyncClient
from pydantic import BaseModel

from iris_api.errors import NotFound
from iris_api.web.json_route import JsonRoute, JsonRouteMiddleware
from iris_api.web.problems import install_problem_handlers


class Body(BaseModel):
    number: int


def path_of(request: Request) -> str:
    return request.url.path


def dependent(path: Annotated[str, Depends(path_of)]) -> str:
    return path


async def yielding(request: Request) -> AsyncIterator[str]:
    yield request.url.path


def app_with(endpoint: Any, *, directly: bool = False) -> FastAPI:
    """An application that finds the route through its router, or ``directly``."""
    app = FastAPI()
    install_problem_handlers(app)
    app.router.routes.append(JsonRoute("/double", endpoint, methods=["POST"]))
    if directly:
        app.add_middleware(JsonRouteMiddleware, routes=app.router.routes)
    return app


def client_of(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app=app), base_url="http://iris")


async def double(
    body: Body, response: Response, path: Annotated[str, Depends(path_of)]
) -> dict[str, Any]:
    response.headers["X-Path"] = path
    return {"number": 2 * body.number}


async def test_json_route_gives_the_endpoint_its_body_dependencies_and_headers() -> None:
    async with client_of(app_with(double)) as client:
        response = await client.post("/double", json={"number": 21})
    assert response.json() == {"number": 42}
    assert response.headers["X-Path"] == "/double"
    assert response.headers["Content-Type"] == "application/json"
    assert int(response.headers["Content-Length"]) == len(response.content)


async def test_json_route_renders_a_returned_pydantic_model() -> None:
    async def echo(body: Body) -> Body:
        return body

    async with client_of(app_with(echo)) as client:
        assert (await client.post("/double", json={"number": 7})).json() == {"number": 7}


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/a+json"])
async def test_json_route_with_any_json_media_type_is_200(content_type: str) -> None:
    async with client_of(app_with(double)) as client:
        response = await client.post(
            "/double", content=b'{"number": 1}', headers={"Content-Type": content_type}
        )
    assert response.status_code == 200


async def refuse(body: Body) -> None:
    raise (NotFound("No such number."), HTTPException(400), HTTPException(405))[body.number]


@pytest.mark.parametrize(
    ("endpoint", "request_parts"),
    [
        (double, {"json": {"number": 21}}),
        (double, {"json": {"number": "x"}}),
        (double, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (double, {"content": b"x"}),
        (double, {"method": "GET"}),
        (double, {"method": "OPTIONS"}),
        (double, {"url": "/double/", "json": {"number": 1}}),
        *((refuse, {"json": {"number": number}}) for number in range(3)),
    ],
)
async def test_json_route_middleware_gives_the_same_responses_as_the_router(
    endpoint: Any, request_parts: dict[str, Any]
) -> None:
    answers = []
    for directly in (False, True):
        async with client_of(app_with(endpoint, directly=directly)) as client:
            response = await client.request(**{"method": "POST", "url": "/double"} | request_parts)
        answers.append((response.status_code, sorted(response.headers.items()), response.content))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("directly", [False, True])
async def test_json_route_with_a_defect_in_the_endpoint_reraises_it(*, directly: bool) -> None:
    async def fail(body: Body) -> None:
        raise HTTPException(418)

    async with client_of(app_with(fail, directly=directly)) as client:
        with pytest.raises(HTTPException):
            await client.post("/double", json={"number": 1})


async def test_json_route_with_another_method_is_405_with_allow() -> None:
    async with client_of(app_with(double)) as client:
        response = await client.get("/double")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"


async def test_json_route_with_a_disconnect_during_the_body_sends_nothing() -> None:
    messages = [
        {"type": "http.request", "body": b'{"number"', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(f"{message} was sent to nobody")

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/double", "headers": headers}
    await JsonRoute("/double", double, methods=["POST"]).handle(scope, receive, send)
    assert not messages


async def other_parameter(body: Body, limit: int) -> None: ...
async def two_bodies(one: Body, other: Body) -> None: ...
async def no_body() -> None: ...
async def a_chain(body: Body, path: Annotated[str, Depends(dependent)]) -> None: ...
async def a_generator(body: Body, path: Annotated[str, Depends(yielding)]) -> None: ...


@pytest.mark.parametrize("endpoint", [other_parameter, two_bodies, no_body, a_chain, a_generator])
def test_json_route_with_an_unsupported_endpoint_is_a_type_error_at_definition(
    endpoint: Any,
) -> None:
    with pytest.raises(TypeError):
        JsonRoute("/double", endpoint, methods=["POST"])
