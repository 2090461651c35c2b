"""Client connections: how many there may be, and how long each may take.

uvicorn's protocol parses and answers; uvloop sends head and body as one packet. This file adds a
cap, deadlines, and problems for what cannot be parsed. The rest is a proxy's work (nginx.conf).
"""

import asyncio
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from iris_api.errors import HeadersTooLarge, MalformedRequest, Overloaded, Problem, RequestTimeout
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import new_request_id
from iris_api.settings import Settings
from iris_api.web.limits import REFUSAL, late_body
from iris_api.web.problems import problem_message

STATE = "iris_api.connections"  # in the ASGI lifespan state, which uvicorn hands to `HttpProtocol`
_CHECK_SECONDS = 0.5
_DRAIN_SECONDS = 0.3  # at the shutdown, for a request that is on its way
_MAX_PIPELINED = 100
_MALFORMED = (
    "This is not a request of HTTP/1.1. Check its first line, its headers, and how they say where "
    "its body ends: Content-Length or Transfer-Encoding."
)
_TOO_LARGE = "The head, or a trailer, is larger than IRIS_MAX_HEADER_BYTES. Send less."
_UPGRADE = "This server speaks HTTP/1.1 alone. Send the request without the header Upgrade."
_BODY_HEADERS = {b"content-length", b"transfer-encoding"}
log = structlog.get_logger("iris_api")


class Connections:
    """The open connections of this process."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.open: set[HttpProtocol] = set()

    async def watch(self) -> None:
        """End connections that make no progress: a timer for each request would cost it 4 us."""
        try:
            while True:
                await asyncio.sleep(_CHECK_SECONDS)
                for connection in tuple(self.open):
                    connection.check_deadline(time.monotonic())
        finally:  # the process ends, and must not wait for clients that do not read
            for connection in tuple(self.open):
                if connection.flow.write_paused:
                    connection.transport.abort()


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registry: Connections = self.app_state[STATE]
        self._settings = self._registry.settings
        self._input_closed = False  # no more input is parsed
        self._in_head = False
        self._unused_bytes = 0  # received since the last head or part of a body
        self._progress = 0  # counts what the client has to do within a time
        self._running: RequestResponseCycle | None = None
        self._step: tuple[float, int] | None = None
        self._step_began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        self._registry.open.add(self)
        if len(self._registry.open) > self._settings.max_connections:
            self._refuse(Overloaded("Too many connections are open. Try again soon."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the running request; uvicorn tells the last one of those that are pipelined."""
        self._registry.open.discard(self)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse input, within the limit on all that is no part of a body."""
        if self._input_closed or self.transport.is_closing():
            return
        self._unused_bytes += len(data)
        super().data_received(data)
        if self._unused_bytes > self._settings.max_header_bytes:
            self._refuse(HeadersTooLarge(_TOO_LARGE))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open if a whole request waits for its response."""
        self._input_closed = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._progress += 1

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind earlier ones of this connection."""
        limit = self._settings.max_header_bytes
        if self._unused_bytes > limit:  # which may include more than this head
            sizes = (len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + sum(sizes) > limit:
                raise HeadersTooLarge(_TOO_LARGE)
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise Overloaded("Too many requests wait on this connection. Send fewer at a time.")
        self._in_head = False
        self._unused_bytes = 0
        self._progress += 1
        super().on_headers_complete()
        self.headers = []  # for trailers, which must not change the application's headers
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # a client may leave out the body after a final response

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._unused_bytes = 0
        self._progress += 1
        super().on_body(body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Start the next pipelined request; uvicorn's method would also start a timer."""
        self._progress += 1
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def shutdown(self) -> None:
        """Close after the current response, and after requests that are on their way."""
        self.loop.call_later(_DRAIN_SECONDS, super().shutdown)

    def send_400_response(self, msg: str) -> None:
        """Refuse input for which the parser, or a callback of it, raised an exception."""
        cause = getattr(sys.exception(), "__context__", None)
        self._refuse(cause if isinstance(cause, Problem) else MalformedRequest(_MALFORMED))

    def _unsupported_upgrade_warning(self) -> None:
        """Answer in HTTP/1.1 and close: the parser stops, and it has dropped the body, if any."""
        self._input_closed = True
        self.cycle.keep_alive = False
        if any(name in _BODY_HEADERS for name, _ in self.cycle.scope["headers"]):
            cast(dict[str, Any], self.cycle.scope)[REFUSAL] = MalformedRequest(_UPGRADE)

    def check_deadline(self, now: float) -> None:
        """End the connection if its client makes no progress; ``now``: `time.monotonic`."""
        timeout, progress, end = self._client_step()
        if (timeout, progress) != self._step:
            self._step, self._step_began = (timeout, progress), now
        elif now - self._step_began > timeout:
            end()

    def _client_step(self) -> tuple[float, int, Callable[[], None]]:
        """The client's next step: its timeout in seconds, its progress, and what ends it."""
        settings, cycle = self._settings, cast(RequestResponseCycle | None, self.cycle)
        if self.transport.is_closing() or self.flow.write_paused:  # it has to read responses
            buffered = self.transport.get_write_buffer_size()
            return settings.request_timeout, buffered, self.transport.abort
        if self._input_closed or self.flow.read_paused:
            return math.inf, 0, self.transport.abort
        if self._in_head:
            problem = RequestTimeout(
                f"The head took over {settings.header_timeout:g} s. Try again."
            )
            return settings.header_timeout, self._progress, partial(self._refuse, problem)
        if cycle is None:
            return settings.header_timeout, self._progress, self.transport.close
        if cycle.response_complete:
            return settings.keep_alive_timeout, self._progress, self.transport.close
        timeout = settings.body_timeout if cycle.more_body else math.inf
        return timeout, self._progress, partial(self._refuse, late_body())

    def _refuse(self, problem: Problem) -> None:
        """Parse no more input; answer with the problem in place of what is being read, and close.

        If another response is due or has begun, the connection closes after it.
        """
        if self._input_closed:
            return
        self._input_closed = True
        self._registry.metrics.count_refused_connection(problem.slug)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            if cycle is None or not cycle.more_body:
                self._write(problem)
            self.transport.close()
        else:
            cycle.keep_alive = False
            if cycle.more_body:
                cast(dict[str, Any], cycle.scope)[REFUSAL] = problem
                cycle.message_event.set()  # the application finds the problem where it reads

    def _write(self, problem: Problem) -> None:
        request_id = new_request_id()
        status = int(problem.status)
        log.info("connection_refused", problem=problem.slug, status=status, request_id=request_id)
        headers = self.server_state.default_headers
        self.transport.write(problem_message(problem, request_id, headers))
