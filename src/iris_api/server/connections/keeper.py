"""All connections of a process: how many there are, and what each of their clients owes.

A connection has no timer of its own; `Connections.watch` looks at all of them twice a second.
"""

import asyncio
import time
from enum import Enum, auto
from typing import NamedTuple, Protocol, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from iris_api.errors import Problem
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import ObservabilityMiddleware
from iris_api.server.connections.heads import Heads
from iris_api.settings import Settings
from iris_api.web.limits import REFUSAL
from iris_api.web.problems import failure_response, problem_response

_SECONDS_BETWEEN_LOOKS = 0.5


class Owed(Enum):
    """What a connection waits for its client to do."""

    HEAD = auto()
    BODY = auto()
    NEXT = auto()
    """Another request."""
    READING = auto()
    """Answers: those that fill the buffer, or the last ones before the connection is closed."""


class Debt(NamedTuple):
    """What a client owes. While it owes the same, its time runs."""

    owed: Owed
    subject: object = None
    """The request that it is about."""
    progress: object = None
    """What changes where the client does it bit by bit."""

    def is_same(self, other: "Debt") -> bool:
        """Whether the client has done nothing about it in between."""
        return (
            self.owed is other.owed
            and self.subject is other.subject
            and self.progress == other.progress
        )


class Kept(Protocol):
    """A connection, as its keeper sees it."""

    def debt(self) -> Debt | None:
        """What the client is to do next for its request to go on; None: nothing, or all is done."""

    def expire(self, owed: Owed) -> None:
        """End a connection whose client has not done in time what it owed."""


class Connections:
    """All connections of this process. The application has it as ``state.connections``."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.fault_of = Heads(settings).fault_of
        self.answer_refusal: ASGIApp = ObservabilityMiddleware(
            _answer_with_refusal, metrics=metrics, render_failure=failure_response
        )
        """Answers with the problem in the request's scope, under an id, and with a line of log."""
        self._config: Config | None = None
        self._server: ServerState | None = None
        self._is_closing = False
        self._metrics = metrics
        self._since: dict[Kept, tuple[Debt, float]] = {}
        self._seconds = {
            Owed.HEAD: settings.header_timeout,
            Owed.BODY: settings.body_timeout,
            Owed.NEXT: settings.keep_alive_timeout,
            Owed.READING: settings.request_timeout,
        }

    async def watch(self) -> None:
        """End the connections of clients who are too slow, until cancelled."""
        try:
            while True:
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
                self._look(time.monotonic())
        finally:
            self._leave_readers()

    def belong_to(self, config: Config, server: ServerState) -> None:
        """Take note of uvicorn's own state, which only a protocol is handed."""
        if self._server is None:
            self._config, self._server = config, server
            if self._is_closing:
                self.close_after_answers()

    def close_after_answers(self) -> None:
        """Tell every client, with its next answer, to open another connection: at a replica."""
        self._is_closing = True
        if self._config is None or self._server is None:
            return  # nobody has connected yet; who does will be told
        close = (b"connection", b"close")
        self._config.encoded_headers.append(close)  # of which uvicorn makes the other each second
        self._server.default_headers = [*self._server.default_headers, close]

    def count_refusal(self, problem: Problem) -> None:
        """Count a connection that was refused."""
        self._metrics.count_refused_connection(problem.slug)

    def _look(self, now: float) -> None:
        before, self._since = self._since, {}
        for connection in self._all():
            debt = connection.debt()
            if debt is None:
                continue
            earlier, since = before.get(connection, (debt, now))
            if not debt.is_same(earlier):
                since = now
            if now - since > self._seconds[debt.owed]:
                connection.expire(debt.owed)
            else:
                self._since[connection] = (debt, since)

    def _leave_readers(self) -> None:
        """End the connections on which an answer waits to be read, or the process waits as well."""
        for connection in self._all():
            debt = connection.debt()
            if debt is not None and debt.owed is Owed.READING:
                connection.expire(debt.owed)

    def _all(self) -> list[Kept]:
        return cast(list[Kept], list(self._server.connections)) if self._server else []


async def _answer_with_refusal(scope: Scope, receive: Receive, send: Send) -> None:
    await problem_response(scope[REFUSAL], scope)(scope, receive, send)
