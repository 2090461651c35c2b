"""The outermost middleware: request id, metrics, access log, and unhandled errors."""

import os
import re
import time
from collections.abc import Callable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iris_api.observability.access_log import AccessLog, Level, log_fields
from iris_api.observability.logging import request_id_of_context
from iris_api.observability.metrics import Metrics

_ACCEPTABLE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Routes that are called all the time: their lines are of level DEBUG, unless they fail."""
_SUCCESS = range(200, 300)


class ObservabilityMiddleware:
    """Plain ASGI middleware: ``BaseHTTPMiddleware`` would double a request's cost.

    Logs an exception that the application did not handle, and responds by ``render_failure``.
    Starlette's ``ServerErrorMiddleware`` would raise it again, and so close the client's keep-alive
    connection. While ``is_stopping`` returns True, each response closes its connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        render_failure: Callable[[Scope], ASGIApp],
        is_stopping: Callable[[], bool],
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.render_failure = render_failure
        self.is_stopping = is_stopping
        self.access_log = AccessLog(on_failure=metrics.note_failure)
        self.log = structlog.get_logger("iris_api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request; other scopes pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        log_fields(scope)  # made here, because an inner layer may have only a copy of the scope
        token = request_id_of_context.set(request_id)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode("ascii")))
                if self.is_stopping():  # the client's next request is for another replica
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            self.log.exception("unhandled_error", path=scope["path"])
            if status:
                raise  # the response has begun, so it can only be aborted
            await self.render_failure(scope)(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id)
            request_id_of_context.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Count and log the request. Status 0: cancelled, or disconnected, before a response began.

        Never raises, because the response may be on its way; neither do the methods that it calls.
        """
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _KNOWN_METHODS else "other"
        self.metrics.observe_request(method, route, status, seconds)
        if problem := log_fields(scope).get("problem"):
            self.metrics.count_problem(str(problem))
        level: Level = "debug" if route in _PROBES and status in _SUCCESS else "info"
        self.access_log.write(scope, status, seconds, request_id, level)


def _request_id(scope: Scope) -> str:
    """The client's ``X-Request-ID`` if it is harmless, else a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ACCEPTABLE_ID.fullmatch(value):
            return str(value, "ascii")
    return new_request_id()


def new_request_id() -> str:
    """A random request id, 32 hexadecimal digits."""
    return os.urandom(16).hex()
