"""uvicorn's protocol of HTTP/1.1, with bounds on what a client may send, and when."""

import asyncio
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
from iris_api.connections.keeper import Connections, Owed
from iris_api.connections.transport import JoiningTransport
from iris_api.errors import (
    HeadersTooLarge,
    MalformedRequest,
    Overloaded,
    Problem,
    RequestTimeout,
)

_LAST_CALL_SECONDS = 0.3
_WISHES = frozenset({b"connection", b"upgrade", b"http2-settings"})


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

    def owed(self) -> Owed | None:
        """What the client is to do next for its request to go on; None: nothing, or all is done."""
        if self.transport.is_closing():
            return Owed.READING
        if not self._has_head():
            return Owed.HEAD
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return Owed.NEXT if self.timeout_keep_alive_task is None else None
        return Owed.BODY if cycle.more_body else None

    def _has_head(self) -> bool:
        """Whether the head of the request that began last is there, as a whole."""
        return "method" in self._scope()

    def _scope(self) -> dict[str, Any]:
        """The ASGI scope of the request that began last; empty before the first."""
        return cast(dict[str, Any], self.scope or {})

    def expire(self, owed: Owed) -> None:
        """End a connection whose client has not done in time what it owed."""
        settings = self.keeper.settings
        scope = self._scope()
        if owed is Owed.READING or BODY_EXPIRED in scope:
            self.transport.abort()
        elif owed is Owed.NEXT:
            self.transport.close()
        elif owed is Owed.BODY:
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
