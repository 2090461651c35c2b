"""Limits on the size of request bodies, the number of requests, and the time of each."""

import asyncio
import time
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Literal

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


@dataclass(slots=True, eq=False)
class _Request:
    """A request that is running."""

    began: float
    held_bytes: int = 0
    is_reading: bool = False
    has_begun_answer: bool = False
    is_overdue: bool = False


@dataclass(slots=True)
class Limits:
    """The running requests of this process, and their limits.

    `watch` checks all requests ten times a second: a timer for each would cost a request 4 us, or 8
    with `asyncio.timeout`. All have the same timeout, so their deadlines are in the order in which
    they began. A check stops at the first request that is not overdue.
    """

    settings: Settings
    requests: dict["asyncio.Task[object]", _Request] = field(default_factory=dict)
    held_bytes: int = 0

    async def watch(self) -> None:
        """Cancel overdue requests. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            latest = time.monotonic() - self.settings.request_timeout
            for task, request in self.requests.items():
                if request.began > latest:
                    break
                # A response that has begun waits only for its reader, and the server limits that.
                if not request.is_overdue and not request.has_begun_answer:
                    request.is_overdue = True
                    task.cancel()


class LimitsMiddleware:
    """Refuses requests beyond the limits, and cancels those past the request timeout.

    FastAPI's own ``max_body_size`` refuses a too large Content-Length in plain text.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.settings = limits.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request, within the limits."""
        if scope["type"] != "http" or path_of(scope) in NEVER_REFUSED:
            await self.app(scope, receive, send)
            return
        problem = self._refusal(scope)
        if problem is not None:
            await problem_response(problem, scope)(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None, "a server runs each request in a task"  # noqa: S101
        request = self.limits.requests[task] = _Request(time.monotonic())
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
            self.limits.held_bytes -= request.held_bytes

    def _refusal(self, scope: Scope) -> Problem | None:
        """The problem of a request that may not begin; None if it may."""
        if len(self.limits.requests) >= self.settings.max_in_flight:
            most = self.settings.max_in_flight
            return Overloaded(f"{most} requests are at work. Try again soon.")
        if scope["method"] not in _WITHOUT_BODY:
            return self._refusal_of_body(_announced_bytes(scope))
        return None

    def _refusal_of_body(self, size: int) -> Problem | None:
        if size > self.settings.max_body_bytes:
            return BodyTooLarge(_too_large(self.settings.max_body_bytes))
        if self.limits.held_bytes + size > self.settings.max_buffered_bytes:
            return Overloaded(_NO_ROOM)
        return None

    async def _run(self, request: _Request, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self.limits

        async def bounded_receive() -> Message:
            request.is_reading = True
            message = await receive()
            if REFUSAL in scope:
                raise scope[REFUSAL]
            size = len(message.get("body", b""))
            limits.held_bytes += size
            request.held_bytes += size
            request.is_reading = message.get("more_body", False)
            if request.held_bytes > limits.settings.max_body_bytes:
                raise BodyTooLarge(_too_large(limits.settings.max_body_bytes))
            if limits.held_bytes > limits.settings.max_buffered_bytes:
                raise Overloaded(_NO_ROOM)
            return message

        async def noticing_send(message: Message) -> None:
            request.has_begun_answer = True
            await send(message)

        await self.app(scope, bounded_receive, noticing_send)

    def _problem_of_cancelled(self, request: _Request, *, may_be_stored: bool) -> Problem:
        """The problem of a cancelled request: it was overdue, or the service is stopping."""
        late = f"The answer took over {self.settings.request_timeout:g} s."
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


def _too_large(most: int) -> str:
    return f"The body is over {most} bytes. Send less at a time."


def _announced_bytes(scope: Scope) -> int:
    """The value of Content-Length in bytes, which the server has checked; 0 without one."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
