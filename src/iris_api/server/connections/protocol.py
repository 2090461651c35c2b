"""The requests of a connection, each in its turn, and what becomes of those that are none."""

import asyncio
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from iris_api.errors import Overloaded, Problem, RequestTimeout
from iris_api.server.connections.keeper import Debt, Owed
from iris_api.server.connections.reading import ReadingProtocol
from iris_api.server.connections.transport import HoldingFlow, JoiningTransport
from iris_api.web.limits import REFUSAL, late_body

_LAST_CALL_SECONDS = 0.3
_LEAST_TAKEN = 65_536
"""Bytes of its answers that a client who reads slowly takes within the time for an answer."""
_NO_HEAD: dict[str, Any] = {"method": "-", "path": "/", "raw_path": b"/", "query_string": b""}
"""What is said of a request whose head did not come."""


class BoundedProtocol(ReadingProtocol):
    """uvicorn's protocol, with bounds, and with problems for what is not even a request."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.keeper.belong_to(config, server_state)
        self._at_work: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        self.flow = HoldingFlow(self.transport)
        most = self.keeper.settings.max_connections
        if len(self.connections) > most:
            self.refuse(Overloaded(f"{most} connections are open. Try again soon."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests that nobody is there; uvicorn tells the last one."""
        waiting = (cycle for cycle, _ in self.pipeline)
        for cycle in filter(None, [self._at_work, *waiting]):
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin a request, whose turn it is; read on where it was the last that waited."""
        self._at_work = cycle
        if app is self.app:
            fault = self.keeper.fault_of(cycle.scope)
            if fault is not None:
                self.keeper.count_refusal(fault)
                app = self._refusing(cycle, fault)
            elif cycle.waiting_for_100_continue:
                app = _closing_unless_read(app, cycle)
        super()._start_asgi_task(cycle, app)
        if self.flow.is_held and not self.pipeline:
            self.loop.call_soon(self.read_on)

    def on_response_complete(self) -> None:
        """Go on with the request that waits, if any; uvicorn would set a timer where none does."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    def shutdown(self) -> None:
        """Close the connection, but let a request that is on its way arrive, and be answered."""
        self.loop.call_later(_LAST_CALL_SECONDS, super().shutdown)

    def debt(self) -> Debt | None:
        """What the client is to do next for its request to go on; None: nothing, or all is done."""
        if self.transport.is_closing() or self.flow.write_paused:
            left = self.transport.get_write_buffer_size() // _LEAST_TAKEN
            return Debt(Owed.READING, progress=(self.flow.times_drained, left))
        if self.flow.read_paused or self.is_deaf:
            return None
        cycle: RequestResponseCycle = self.cycle
        if "method" not in (self.scope or {}):
            return Debt(Owed.HEAD, self.scope)
        if cycle.response_complete:
            return Debt(Owed.NEXT, self.scope)
        return Debt(Owed.BODY, cycle) if cycle.more_body else None

    def expire(self, owed: Owed) -> None:
        """End a connection whose client has not done in time what it owed."""
        if owed is Owed.READING:
            self.transport.abort()
        elif owed is Owed.BODY:
            self.refuse(late_body())
        elif owed is Owed.NEXT or self.scope is None:  # no request was begun, so no answer is due
            self.transport.close()
        else:
            seconds = f"{self.keeper.settings.header_timeout:g} s"
            self.refuse(RequestTimeout(f"The head was not there in {seconds}. Send it faster."))

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem in place of what is being read, when its turn comes, and close.

        An answer that has begun ends as it would have; what has come as a whole is answered, too.
        """
        if self.is_deaf:
            return
        self.is_deaf = True
        self.keeper.count_refusal(problem)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            self._begin_refusal(problem)
        elif cycle.response_complete:
            self.transport.close()
        else:
            cycle.keep_alive = False
            if cycle.more_body and not cycle.response_started:
                self._refuse_body_of(cycle, problem)

    def _begin_refusal(self, problem: Problem) -> None:
        """Make a request of what is none, for it to be answered in its turn."""
        if self.scope is None:
            self.on_message_begin()
        self.scope = cast(Any, _NO_HEAD | self.scope)
        before: RequestResponseCycle | None = self.cycle
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        app = self._refusing(self.cycle, problem)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            self.pipeline.appendleft((self.cycle, app))

    def _refuse_body_of(self, cycle: RequestResponseCycle, problem: Problem) -> None:
        app = self._refusing(cycle, problem)
        if self.pipeline:
            self.pipeline[0] = (cycle, app)  # the application has not seen it yet
        else:
            cycle.message_event.set()  # it finds the problem where it reads

    def _refusing(self, cycle: RequestResponseCycle, problem: Problem) -> Any:
        """The application that answers a request with a problem."""
        cycle.keep_alive = False
        cast(dict[str, Any], cycle.scope)[REFUSAL] = problem
        return self.keeper.answer_refusal


def _closing_unless_read(app: Any, cycle: RequestResponseCycle) -> ASGIApp:
    """The application, for a request whose client waits to be told to send its body.

    Answered before that, the client may send it or not, so nobody knows where its next request
    begins.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, send_last)

    return run
