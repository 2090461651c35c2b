"""A route with little cost beyond its endpoint."""

import re
from collections.abc import Callable, Iterable, Sequence
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from fastapi import Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from iris_api.database.schema import MAX_BATCH_ITEMS
from iris_api.errors import (
    FieldError,
    InvalidRequest,
    Problem,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from iris_api.iris import FEATURE_NAMES
from iris_api.web.paths import path_of
from iris_api.web.problems import (
    MAX_ERRORS,
    problem_of_http_exception,
    problem_of_validation,
    problem_response,
)

_MAX_VALUES = MAX_BATCH_ITEMS * (len(FEATURE_NAMES) + 3)
"""Most JSON values in a body. pydantic builds an object for each, which blocks the event loop."""
_OTHER_JSON = re.compile(rb"application/[a-z0-9!#$&^_.+-]+\+json")
_SPECIAL = (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)


class JsonRoute(APIRoute):
    """An `APIRoute` for an endpoint with one JSON body, run without FastAPI's request handling.

    The endpoint stays a plain FastAPI one, and so does its part of the OpenAPI document. This route
    skips what such an endpoint does not use: exit stacks for dependencies with ``yield``, and the
    resolution of other parameters. It does not validate the response: the endpoint must return a
    correct one, a pydantic model or plain values. Pydantic parses the request body from bytes, and
    serialises the response to bytes.

    The endpoint may take its body, a `Response` for headers, and dependencies that are plain
    functions of the request alone. Raises `TypeError` for any other endpoint.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._body_name, body_type = _only_body(self.dependant)
        self._dependencies = _plain_dependencies(self.dependant)
        self._response_name = self.dependant.response_param_name
        self._validate_json = TypeAdapter(body_type).validator.validate_json

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The caller renders any `Problem` or `HTTPException`."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": ", ".join(self.methods or ())})
        _require_json(scope["headers"])
        body = await _read_body(receive)
        if body is None:
            return  # the client has disconnected
        request = Request(scope, receive)
        arguments = {name: call(request) for name, call in self._dependencies}
        arguments[self._body_name] = self._parse(body)
        response = Response(media_type="application/json")
        if self._response_name:
            arguments[self._response_name] = response
        response.body = to_json(await self.endpoint(**arguments))
        # The first header is Content-Length, still that of an empty body.
        response.raw_headers[0] = (b"content-length", b"%d" % len(response.body))
        await response(scope, receive, send)

    def _parse(self, body: bytes) -> Any:
        if _has_too_many_values(body):
            detail = f"At most {_MAX_VALUES:,} values of JSON. Send fewer items at a time"
            raise InvalidRequest([FieldError("body", "body", "too_many_values", detail)])
        try:
            return self._validate_json(body)
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            first = [{**one, "loc": ("body", *one["loc"])} for one in details[:MAX_ERRORS]]
            raise problem_of_validation(first, count=error.error_count()) from None


class JsonRouteMiddleware:
    """Sends a request for a `JsonRoute` directly to it, past Starlette's and FastAPI's layers.

    Those layers (exception handlers, an exit stack, a search through all routes) are a fifth of a
    prediction's cost before inference and SQL. The routes stay in the application as well, for its
    OpenAPI document, and for requests with another method.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self._routes = {
            (method, route.path): route
            for route in routes
            if isinstance(route, JsonRoute)
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the route and render the problem that it raises; without a route, the application."""
        route = None
        if scope["type"] == "http":
            route = self._routes.get((scope["method"], path_of(scope)))
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.handle(scope, receive, send)
        except (Problem, HTTPException) as error:
            problem = error if isinstance(error, Problem) else problem_of_http_exception(error)
            await problem_response(problem, scope)(scope, receive, send)


def _only_body(dependant: Dependant) -> tuple[str, Any]:
    others = (
        dependant.path_params
        or dependant.query_params
        or dependant.header_params
        or dependant.cookie_params
        or dependant.background_tasks_param_name
        or dependant.request_param_name
    )
    if others or len(dependant.body_params) != 1:
        raise TypeError(
            f"{dependant.call} does not take just one body, dependencies and a Response"
        )
    [body] = dependant.body_params
    return body.name, body.field_info.annotation


def _plain_dependencies(dependant: Dependant) -> list[tuple[str, Callable[[Request], Any]]]:
    plain = []
    for dependency in dependant.dependencies:
        call, name = dependency.call, dependency.name
        is_special = any(check(call) for check in _SPECIAL)
        if dependency.dependencies or not dependency.request_param_name or is_special:
            raise TypeError(f"{call} is not a plain function of the request alone")
        assert call is not None and name is not None  # noqa: PT018, S101, a Depends() has both
        plain.append((name, call))
    return plain


def _require_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    media_type = b""
    for name, value in headers:
        if name == b"content-type":
            media_type = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise UnsupportedEncoding("Send the body as it is, without a Content-Encoding.")
    if media_type != b"application/json" and not _OTHER_JSON.fullmatch(media_type):
        raise UnsupportedMediaType("Send JSON, with the header Content-Type: application/json.")


def _has_too_many_values(body: bytes) -> bool:
    """Whether there are more than `_MAX_VALUES`; ``,[{`` within strings, as in a text, are none."""
    if len(body) <= _MAX_VALUES or _count_values(body) <= _MAX_VALUES:
        return False
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    # Every second piece is a string. Beyond this many pieces, strings count as values do.
    return _count_values(b"".join(unescaped.split(b'"', 4 * _MAX_VALUES)[::2])) > _MAX_VALUES


def _count_values(body: bytes) -> int:
    """The number of JSON values less one; more if strings hold ``,[{`` or containers are empty."""
    return sum(map(body.count, (b",", b"[", b"{")))


async def _read_body(receive: Receive) -> bytes | None:
    """Read the body; None if the client disconnected before its end."""
    chunks = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)
