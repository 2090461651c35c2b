"""How much is read of what a client sends, and what is taken for a request."""

import asyncio
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from iris_api.errors import HeadersTooLarge, MalformedRequest, Problem
from iris_api.server.connections.heads import size_of, without_origin, without_wish
from iris_api.server.connections.keeper import Connections
from iris_api.server.connections.transport import HoldingFlow

_MOST_WAITING = 16
"""Requests of one connection that wait behind the one at work."""
_END_OF_HEAD = b"\r\n\r\n"
_FEW_HEADS = 1024
"""Bytes that hold so few heads, some 50, that they are parsed at once."""
_FRAME_BYTES = 12
"""Those of a chunk that are not data: its size, and the ends of two lines."""


class ReadingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on a head, on what comes beside a body, and on a queue.

    A subclass says what becomes of those who are refused.
    """

    flow: HoldingFlow

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.keeper: Connections = config.loaded_app.state.connections
        self.is_deaf = False  # nothing that the client says counts any more
        self._most_header_bytes = self.keeper.settings.max_header_bytes
        self._loose_bytes = 0  # that came, and are of no head that is complete, nor of a body
        self._held = b""  # what came, and has to wait until others are answered

    def refuse(self, problem: Problem) -> None:
        """Read no more, and answer with a problem in place of what is being read."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Take what came, as far as not too many requests wait already."""
        if self.is_deaf or self.transport.is_closing():
            return
        taken = 0
        while taken < len(data) and len(self.pipeline) < _MOST_WAITING:
            taken += self._parse(data, taken)
        if self.pipeline:
            self._held = data[taken:]
            self.flow.is_held = True
            self.flow.pause_reading()

    def read_on(self) -> None:
        """Take what was held, and what comes: no request waits any more."""
        if self.transport.is_closing():
            return
        self.flow.is_held = False
        self.flow.resume_reading()
        held, self._held = self._held, b""
        self.data_received(held)

    def _parse(self, data: bytes, begin: int) -> int:
        """Parse on from there, to the end of a head; return how many bytes are done with."""
        piece: bytes | memoryview = data
        if begin or len(data) > _FEW_HEADS:
            piece = memoryview(data)[begin : _end_of_head(data, begin + _FEW_HEADS)]
        taken = len(piece)
        self._loose_bytes += taken
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            taken = upgrade.args[0]
            self._go_on_as_before()
        except HttpParserError as error:
            cause = error.__context__
            malformed = MalformedRequest(
                "This is not a request of HTTP/1.1. Check its first line, its headers, and how "
                "they say where its body ends: Content-Length or Transfer-Encoding."
            )
            self.refuse(cause if isinstance(cause, Problem) else malformed)
        if self._loose_bytes > self._most_header_bytes:
            self.refuse(self._too_large())
        elif self._loose_bytes < 0:
            self._loose_bytes = 0
        return len(data) if self.is_deaf else taken

    def on_headers_complete(self) -> None:
        """Begin the request, or let it wait for its turn."""
        most = self._most_header_bytes
        if self._loose_bytes > most and size_of(self.url, self.headers) > most:
            raise self._too_large()
        if not self.url.startswith(b"/"):
            self.url = without_origin(self.url)
        super().on_headers_complete()
        self._loose_bytes = 0
        self.headers = []  # for fields behind a body, which nobody reads

    def on_chunk_header(self) -> None:
        """Count what a chunk brings, but for what it has to."""
        self._loose_bytes -= _FRAME_BYTES

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._loose_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request; of the connection, too, where a field behind the body says so.

        The parser heeds such a `Connection: close`, and takes nothing more for a request.
        """
        super().on_message_complete()
        if self.parser.should_upgrade() or self.parser.should_keep_alive():
            return
        if self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False

    def _should_upgrade(self) -> bool:
        """Begin no request that wishes for another protocol: see `_go_on_as_before`."""
        return True

    def _go_on_as_before(self) -> None:
        """Take a request that wishes for another protocol, which it may, as one of HTTP/1.1.

        The parser takes what follows such a head for that protocol's, so a body would be lost, or
        be taken for a request. So it is begun anew, with the same head less the wish.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.refuse(MalformedRequest("This is not a proxy. Ask for a path of this server's."))
            return
        version = self.parser.get_http_version()
        head = without_wish(method, self.url, version, list(self.scope["headers"]))
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._parse(head, 0)

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            "The head, or what the chunks bring beside the body, is over "
            f"{self._most_header_bytes} bytes. Send fewer headers."
        )


def _end_of_head(data: bytes, begin: int) -> int:
    """Where the next head ends, from there on; the data's end where that is not known yet."""
    end = data.find(_END_OF_HEAD, begin - len(_END_OF_HEAD))
    return len(data) if end < 0 else end + len(_END_OF_HEAD)
