"""Bounds on clients' connections, which uvicorn has none of: how many, how slow, how large a head.

A connection has no timer of its own; `Connections.watch` looks at all of them twice a second.
"""

import asyncio
import time
from enum import Enum, auto
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from iris_api.api.limits import BODY_EXPIRED
from iris_api.api.problems import problem_response
from iris_api.errors import (
    HeadersTooLarge,
    MalformedRequest,
    Overloaded,
    Problem,
    RequestTimeout,
)
from iris_api.observability.metrics import Metrics
from iris_api.settings import Settings

_SECONDS_BETWEEN_LOOKS = 0.5
_LAST_CALL_SECONDS = 0.3
_WISHES = frozenset({b"connection", b"upgrade", b"http2-settings"})


class _Owed(Enum):
    """What a connection waits for its client to do."""

    HEAD = auto()
    BODY = auto()
    NEXT = auto()
    """Another request, where it sends something else instead; else uvicorn's own timer runs."""
    READING = auto()
    """The answer, or what is left of it, before the connection is closed."""


class Connections:
    """All connections of this process. The application has it as ``state.connections``."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self._config: Config | None = None
        self._server: ServerState | None = None
        self._is_closing = False
        self._refused = metrics.connections_refused
        self._since: dict[BoundedProtocol, tuple[object, _Owed, float]] = {}
        self._seconds = {
            _Owed.HEAD: settings.header_timeout,
            _Owed.BODY: settings.body_timeout,
            _Owed.NEXT: settings.keep_alive_timeout,
            _Owed.READING: settings.request_timeout,
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
        for protocol in list(server.connections):
            if not isinstance(protocol, BoundedProtocol):
                continue
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


class JoiningTransport:
    """A client's transport, in which an answer's head waits for its body, and they leave as one.

    uvicorn writes the one after the other, and the second system call and packet cost a prediction
    8 us. Nothing waits for longer than the loop's present turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept = b""
        self.is_closing = transport.is_closing
        self.abort = transport.abort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write this along with what was kept; where nothing was, keep it."""
        if self._kept:
            kept, self._kept = self._kept, b""
            self._transport.writelines([kept, data])
        else:
            self._kept = data
            self._loop.call_soon(self._write_kept)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._write_kept()
        self._transport.close()

    def _write_kept(self) -> None:
        if self._kept and not self.is_closing():
            kept, self._kept = self._kept, b""
            self._transport.write(kept)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds, and with problems for what is not even a request."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.keeper: Connections = config.loaded_app.state.connections
        self.keeper.belong_to(config, server_state)
        self._head_bytes = 0
        self._is_deaf = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        most = self.keeper.settings.max_connections
        if len(self.connections) > most:
            self.refuse(Overloaded(f"{most} connections are open. Try again soon."))

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it makes the head of a request too large."""
        if self._is_deaf or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._go_on_as_before(data[upgrade.args[0] :])
        except HttpParserError:
            self.refuse(MalformedRequest("This is not HTTP. Send a request of HTTP/1.1."))
        if self._has_head():
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        most = self.keeper.settings.max_header_bytes
        if self._head_bytes > most and not self.transport.is_closing():
            self.refuse(HeadersTooLarge(f"The head is over {most} bytes. Send fewer headers."))

    def _should_upgrade(self) -> bool:
        """Begin no request that wishes for another protocol: see `_go_on_as_before`."""
        return True

    def _go_on_as_before(self, rest: bytes) -> None:
        """Take a request that wishes for another protocol, which it may, as one of HTTP/1.1.

        The parser takes what follows such a head for that protocol's, so a body would be lost, or
        be taken for a request. So it is begun anew, with the same head less the wish.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(MalformedRequest("This is not a proxy. Ask for a path of this server's."))
            return
        closes = any(n == b"connection" and b"close" in v.lower() for n, v in self.headers)
        headers = [
            *(b"%s: %s\r\n" % item for item in self.headers if item[0] not in _WISHES),
            b"connection: close\r\n" if closes else b"",
        ]
        version = self.parser.get_http_version().encode()
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(headers))
        self.parser = HttpRequestParser(self)
        self.data_received(head + rest)

    def shutdown(self) -> None:
        """Close the connection, but let a request that is on its way arrive, and be answered."""
        self.loop.call_later(_LAST_CALL_SECONDS, super().shutdown)

    def owed(self) -> _Owed | None:
        """What the client is to do next for its request to go on; None: nothing, or all is done."""
        if self.transport.is_closing():
            return _Owed.READING
        if not self._has_head():
            return _Owed.HEAD
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return _Owed.NEXT if self.timeout_keep_alive_task is None else None
        return _Owed.BODY if cycle.more_body else None

    def _has_head(self) -> bool:
        """Whether the head of the request that began last is there, as a whole."""
        return "method" in self._scope()

    def _scope(self) -> dict[str, Any]:
        """The ASGI scope of the request that began last; empty before the first."""
        return cast(dict[str, Any], self.scope or {})

    def expire(self, owed: _Owed) -> None:
        """End a connection whose client has not done in time what it owed."""
        settings = self.keeper.settings
        scope = self._scope()
        if owed is _Owed.READING or BODY_EXPIRED in scope:
            self.transport.abort()
        elif owed is _Owed.NEXT:
            self.transport.close()
        elif owed is _Owed.BODY:
            scope[BODY_EXPIRED] = True
            self.cycle.message_event.set()
        elif not scope:
            self.transport.close()  # it never began a request, so it waits for no answer
        else:
            seconds = f"{settings.header_timeout:g} s"
            self.refuse(RequestTimeout(f"The head was not there in {seconds}. Send it faster."))

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem, beside the application, and close the connection.

        A request that came before, as a whole, gets its own answer instead.
        """
        self.keeper.count_refusal(problem)
        self._is_deaf = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.more_body and not cycle.response_complete:
            cycle.keep_alive = False
            return
        response = problem_response(problem, {"path": self._scope().get("path", "/")})
        headers = {**dict(response.raw_headers), b"connection": b"close"}
        lines = [b"%s: %s\r\n" % item for item in headers.items()]
        self.transport.write(
            b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", bytes(response.body)])
        )
        self.transport.close()
