"""Limits on the size of request bodies, the number of requests, and the time of each."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Any, Literal, TypeVar

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iris_api.batching import CancelledWhileStoring
from iris_api.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    FieldError,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    Problem,
    RequestTimeout,
)
from iris_api.settings import Settings
from iris_api.web.paths import path_of
from iris_api.web.problems import problem_response

REFUSAL = "iris_api.refusal"
"""The name in a request's scope for a problem that the server found, such as a late body. The
server also wakes ``receive``."""

_WITHOUT_BODY = frozenset({HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.OPTIONS})
"""Methods that change nothing, and whose body, if any, is not read."""
NEVER_REFUSED = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths without limits, so that operators can inspect an overloaded service."""
_SECONDS_BETWEEN_LOOKS = 0.1
_NO_ROOM = "Other requests' bodies take all the room. Try again soon."


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """The limits of a route's requests."""

    timeout_seconds: float
    """From the head to the beginning of the response."""
    max_body_bytes: float
    is_streamed: bool = False
    """Whether the endpoint consumes the body while it arrives: each part counts as buffered until
    the endpoint asks for the next one. Else all parts count until the request ends."""


STREAMED = RoutePolicy(timeout_seconds=math.inf, max_body_bytes=math.inf, is_streamed=True)
"""Unlimited in time and size. The server still ends a body that stalls."""


def limited(policy: RoutePolicy) -> Callable[[Endpoint], Endpoint]:
    """A decorator for an endpoint whose route has this policy instead of the settings' limits.

    It goes below the route's own decorator. The route's path must have no parameters.
    """

    def decorate(endpoint: Endpoint) -> Endpoint:
        endpoint.route_policy = policy  # type: ignore[attr-defined]
        return endpoint

    return decorate


@dataclass(slots=True, eq=False)
class _Request:
    """A request that is running."""

    policy: RoutePolicy
    deadline: float
    body_bytes: int = 0
    held_bytes: int = 0
    is_reading: bool = False
    has_begun_answer: bool = False
    is_overdue: bool = False


@dataclass(slots=True)
class Limits:
    """The running requests of this process, and their limits.

    `watch` checks all requests ten times a second: a timer for each would cost a request 4 us, or 8
    with `asyncio.timeout`.
    """

    settings: Settings
    default_policy: RoutePolicy = field(init=False)
    """For all routes that are not `limited`."""
    requests: dict["asyncio.Task[object]", _Request] = field(default_factory=dict)
    held_bytes: int = 0

    def __post_init__(self) -> None:
        self.default_policy = RoutePolicy(
            self.settings.request_timeout, self.settings.max_body_bytes
        )

    async def watch(self) -> None:
        """Cancel overdue requests. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            for task, request in self.requests.items():
                # A response that has begun waits only for its reader, and the server limits that.
                if (
                    request.deadline < now
                    and not request.is_overdue
                    and not request.has_begun_answer
                ):
                    request.is_overdue = True
                    task.cancel()

    def hold(self, request: _Request, size: int) -> None:
        """Count so many bytes of the request's body as buffered."""
        self.held_bytes += size
        request.held_bytes += size

    def release(self, request: _Request) -> None:
        """Count no bytes of the request's body as buffered any more."""
        self.held_bytes -= request.held_bytes
        request.held_bytes = 0


class LimitsMiddleware:
    """Refuses requests beyond the limits, and cancels those past the request timeout.

    FastAPI's own ``max_body_size`` refuses a too large Content-Length in plain text.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, routes: Sequence[BaseRoute] = ()) -> None:
        self.app = app
        self.limits = limits
        self.settings = limits.settings
        self._policies = _policies_of(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request, within the limits."""
        if scope["type"] != "http" or (path := path_of(scope)) in NEVER_REFUSED:
            await self.app(scope, receive, send)
            return
        policy = self._policies.get((scope["method"], path), self.limits.default_policy)
        problem = self._refusal(scope, policy)
        if problem is not None:
            await problem_response(problem, scope)(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None, "a server runs each request in a task"  # noqa: S101
        request = _Request(policy, time.monotonic() + policy.timeout_seconds)
        self.limits.requests[task] = request
        try:
            await self._run(request, scope, receive, send)
        except asyncio.CancelledError as error:
            if request.has_begun_answer:
                raise
            task.uncancel()
            may_be_stored = isinstance(error, CancelledWhileStoring)
            problem = self._problem_of_cancelled(request, may_be_stored=may_be_stored)
            await problem_response(problem, scope)(scope, receive, send)
        finally:
            del self.limits.requests[task]
            self.limits.release(request)

    def _refusal(self, scope: Scope, policy: RoutePolicy) -> Problem | None:
        """The problem of a request that may not begin; None if it may."""
        if len(self.limits.requests) >= self.settings.max_in_flight:
            most = self.settings.max_in_flight
            return Overloaded(f"{most} requests are at work. Try again soon.")
        if scope["method"] in _WITHOUT_BODY:
            return None
        size = _announced_bytes(scope)
        if size > policy.max_body_bytes:
            return BodyTooLarge(_too_large(policy))
        if not policy.is_streamed and self._has_no_room(size):
            return Overloaded(_NO_ROOM)
        return None

    def _has_no_room(self, size: int = 0) -> bool:
        return self.limits.held_bytes + size > self.settings.max_buffered_bytes

    async def _run(self, request: _Request, scope: Scope, receive: Receive, send: Send) -> None:
        limits, policy = self.limits, request.policy

        async def bounded_receive() -> Message:
            if policy.is_streamed:
                limits.release(request)  # the endpoint has consumed the last part
            request.is_reading = True
            message = await receive()
            # A response that has begun, and does not need the body, goes on.
            if REFUSAL in scope and (policy.is_streamed or not request.has_begun_answer):
                raise scope[REFUSAL]
            size = len(message.get("body", b""))
            limits.hold(request, size)
            request.body_bytes += size
            request.is_reading = message.get("more_body", False)
            if request.body_bytes > policy.max_body_bytes:
                raise BodyTooLarge(_too_large(policy))
            if self._has_no_room():
                raise Overloaded(_NO_ROOM)
            return message

        async def noticing_send(message: Message) -> None:
            request.has_begun_answer = True
            await send(message)

        await self.app(scope, bounded_receive, noticing_send)

    def _problem_of_cancelled(self, request: _Request, *, may_be_stored: bool) -> Problem:
        """The problem of a cancelled request: it was overdue, or the service is stopping."""
        late = f"The answer took over {request.policy.timeout_seconds:g} s."
        reason = late if request.is_overdue else "The service is stopping."
        if may_be_stored:
            return OutcomeUnknown(reason)
        if request.is_overdue and request.is_reading:
            return late_body()
        headers = {} if request.is_overdue else {"Connection": "close"}
        return DeadlineExceeded(f"{reason} Nothing was stored. Try again soon.", headers=headers)


def late_body() -> RequestTimeout:
    """The problem of a body that did not arrive in time."""
    return RequestTimeout("The body was not there in time, so nothing was stored. Send it faster.")


def require_at_most(location: Literal["body", "query"], name: str, value: int, most: int) -> None:
    """Raise `InvalidRequest`, which names the field, if the value is over the deployment's."""
    if value > most:
        raise InvalidRequest([FieldError(location, name, "too_long", f"At most {most} here")])


def _policies_of(routes: Sequence[BaseRoute]) -> dict[tuple[str, str], RoutePolicy]:
    """The policies of endpoints that are `limited`, by method and path."""
    return {
        (method, route.path): route.endpoint.route_policy
        for route in routes
        if isinstance(route, Route) and hasattr(route.endpoint, "route_policy")
        for method in route.methods or ()
    }


def _too_large(policy: RoutePolicy) -> str:
    return f"The body is over {policy.max_body_bytes} bytes. Send less at a time."


def _announced_bytes(scope: Scope) -> int:
    """The value of Content-Length in bytes, which the server has checked; 0 without one."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
