"""All connections of a process: how many there are, and what each of their clients owes.

A connection has no timer of its own; `Connections.watch` looks at all of them twice a second.
"""

import asyncio
import time
from enum import Enum, auto
from typing import Protocol, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from iris_api.errors import Problem
from iris_api.observability.metrics import Metrics
from iris_api.settings import Settings

_SECONDS_BETWEEN_LOOKS = 0.5


class Owed(Enum):
    """What a connection waits for its client to do."""

    HEAD = auto()
    BODY = auto()
    NEXT = auto()
    """Another request, where it sends something else instead; else uvicorn's own timer runs."""
    READING = auto()
    """The answer, or what is left of it, before the connection is closed."""


class Kept(Protocol):
    """A connection, as its keeper sees it."""

    scope: object

    def owed(self) -> Owed | None:
        """What the client is to do next for its request to go on; None: nothing, or all is done."""

    def expire(self, owed: Owed) -> None:
        """End a connection whose client has not done in time what it owed."""


class Connections:
    """All connections of this process. The application has it as ``state.connections``."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._config: Config | None = None
        self._server: ServerState | None = None
        self._is_closing = False
        self._refused = metrics.connections_refused
        self._since: dict[Kept, tuple[object, Owed, float]] = {}
        self._seconds = {
            Owed.HEAD: settings.header_timeout,
            Owed.BODY: settings.body_timeout,
            Owed.NEXT: settings.keep_alive_timeout,
            Owed.READING: settings.request_timeout,
        }

    async def watch(self) -> None:
        """End the connections of clients who are too slow, until cancelled."""
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
            if self._server is not None:
                self._look(self._server, time.monotonic())

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
        self._refused.labels(problem.slug).inc()

    def _look(self, server: ServerState, now: float) -> None:
        before, self._since = self._since, {}
        for protocol in cast(list[Kept], list(server.connections)):
            owed = protocol.owed()
            if owed is None:
                continue
            state = before.get(protocol)
            if state is None or state[0] is not protocol.scope or state[1] is not owed:
                state = (protocol.scope, owed, now)
            if now - state[2] > self._seconds[owed]:
                protocol.expire(owed)
            else:
                self._since[protocol] = state
