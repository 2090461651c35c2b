"""Renders every error as ``application/problem+json`` (RFC 9457)."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Scope

from iris_api.database.causes import log_cause
from iris_api.errors import (
    FieldError,
    Forbidden,
    InternalError,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unauthorized,
)
from iris_api.iris import FEATURE_NAMES
from iris_api.observability.access_log import log_fields
from iris_api.observability.logging import request_id_of_context

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100
"""Most invalid fields that a response lists; to render 80,000 would take half a second."""
_SAFE_IN_PATH = "/!$&'()*+,;=:@"  # RFC 3986, section 3.3; quote() leaves letters and digits alone
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}},
}
_CHALLENGE = {
    "WWW-Authenticate": {
        "description": "`Bearer`, and what is wrong with the key that came (RFC 6750)",
        "schema": {"type": "string"},
    },
}
_UNPRINTABLE = re.compile(r"[^ -~]")


class ProblemField(BaseModel):
    """One invalid field."""

    location: Literal["body", "query", "path", "header"] = Field(
        alias="in", description="The part of the request that holds it"
    )
    field: str = Field(description=f"Such as `limit`, or `items[3].{FEATURE_NAMES[0]}`")
    code: str = Field(description="What is wrong with it: stable, for programs")
    detail: str = Field(description="What is wrong with it: for people")


class ProblemDetails(BaseModel):
    """The body of every error: RFC 9457, with the request's id and the invalid fields."""

    type: str = Field(description="The kind of problem: a stable URN")
    title: str = Field(description="The same for each problem of a type")
    status: int = Field(description="As in the status line")
    detail: str = Field(description="What is wrong this time, and what to do about it")
    instance: str = Field(description="The path that was asked for, as a URI reference")
    request_id: str = Field(description="As in the header X-Request-ID, and in the log")
    errors: list[ProblemField] = Field(
        default_factory=list, description=f"The invalid fields, at most {MAX_ERRORS}"
    )


def problem_response(problem: Problem, scope: Scope) -> Response:
    """Render a problem; log its slug, and its cause if PostgreSQL or the operating system has one.

    The response repeats nothing of the request but its path and field names.
    """
    log_cause(problem)
    log_fields(scope)["problem"] = problem.slug
    body: dict[str, Any] = {
        "type": problem.type_uri(),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": _reference_to(scope["path"]),
        "request_id": request_id_of_context.get(),
        **problem.extensions,
    }
    if problem.errors:
        body["errors"] = [
            {"in": e.location, "field": e.field, "code": e.code, "detail": e.detail}
            for e in problem.errors[:MAX_ERRORS]
        ]
    # ASCII: a message may contain a lone surrogate, which UTF-8 cannot encode.
    content = json.dumps(body, ensure_ascii=True).encode("ascii")
    # By default, a cache may store a 404 or a 405, although a later request could succeed.
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(content, problem.status, headers, media_type=MEDIA_TYPE)


def problem_message(
    problem: Problem, request_id: str, headers: Sequence[tuple[bytes, bytes]]
) -> bytes:
    """The whole HTTP/1.1 response to what is no request; it closes the connection."""
    token = request_id_of_context.set(request_id)
    response = problem_response(problem, {"path": "/"})
    request_id_of_context.reset(token)
    all_headers = [
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode("ascii")),
        *headers,
        *response.raw_headers,
    ]
    status_line = f"HTTP/1.1 {int(problem.status)} {problem.status.phrase}".encode("ascii")
    lines = [status_line, *(b"%s: %s" % header for header in all_headers), b""]
    return b"\r\n".join([*lines, bytes(response.body)])


def _reference_to(path: str) -> str:
    """The path as a URI reference (RFC 3986, section 4.2); a leading `//` would begin a host."""
    quoted = quote(path, safe=_SAFE_IN_PATH, errors="surrogatepass")
    return f"/.{quoted}" if quoted.startswith("//") else quoted


def failure_response(scope: Scope) -> Response:
    """The response to an unhandled exception; it reveals nothing about it."""
    return problem_response(
        InternalError("This is a defect. Tell the operators the request_id; their log says more."),
        scope,
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Have the application render its own, FastAPI's and Starlette's errors as problems."""

    async def on_problem(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)  # noqa: S101, the handler is registered for it alone
        return problem_response(problem, request.scope)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101, as above
        return problem_response(problem_of_validation(error.errors()), request.scope)

    async def on_http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101, as above
        return problem_response(problem_of_http_exception(error), request.scope)

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_exception)


def problem_of_validation(
    errors: Sequence[Mapping[str, Any]], *, count: int | None = None
) -> Problem:
    """The problem for pydantic's errors; ``count`` is their total if some were left out.

    It leaves out ``input`` and ``ctx``, which echo the request.
    """
    first = errors[:MAX_ERRORS]
    for error in first:
        if error["type"] == "json_invalid":
            return MalformedBody(f"{error['msg']}. Send one JSON value, in UTF-8.")
    return InvalidRequest([_field_error(error) for error in first], count=count or len(errors))


def _field_error(error: Mapping[str, Any]) -> FieldError:
    location, *path = error["loc"]
    return FieldError(location, _field_name(path) or location, error["type"], error["msg"])


def _field_name(path: Sequence[str | int]) -> str:
    """``items[3].name``; the client chooses names, so each is cut and made printable."""
    name = "".join(
        f"[{part}]" if isinstance(part, int) else "." + _UNPRINTABLE.sub("?", part[:64])
        for part in path
    )
    return name.removeprefix(".")


def problem_of_http_exception(error: HTTPException) -> Problem:
    """The problem for an exception of FastAPI or Starlette; re-raises an unexpected one."""
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return NotFound("There is no such path. /docs lists them all.")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed(f"This path takes {allowed}.", headers=error.headers)
        case HTTPStatus.BAD_REQUEST:
            return MalformedBody("The body could not be read. Send one JSON value, in UTF-8.")
        case _:
            raise error


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI ``responses`` of an endpoint that can answer with these problems."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in sorted(problems, key=lambda cls: cls.status):
        entry = responses.setdefault(
            int(problem.status),
            {
                "description": f"{problem.status.phrase}\n",
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                        "examples": {},
                    }
                },
            },
        )
        entry["description"] += f"\n- `{problem.slug}`: {problem.meaning()}"
        entry["content"][MEDIA_TYPE]["examples"][problem.slug] = _example(problem)
        if problem.retry_after is not None:
            entry["headers"] = _RETRY_AFTER
        elif issubclass(problem, (Unauthorized, Forbidden)):
            entry["headers"] = _CHALLENGE
    return responses


def _example(problem: type[Problem]) -> dict[str, Any]:
    value = {
        "type": problem.type_uri(),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.meaning(),
        "instance": "/predict",
        "request_id": "6f0c8a4e2b1d4c7f9a3e5d7b8c1f2a4e",
    }
    return {"summary": problem.title, "value": value}
