"""HTTP over raw sockets: fast enough for many clients, and exact about what is known."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar, cast

from tests.support.answers import END_OF_HEAD, Answer, parse_head

T = TypeVar("T")

PATIENCE = 30.0  # seconds without an answer, after which its outcome is unknown
_CONNECT_PATIENCE = 10.0


class RefusedError(Exception):
    """No connection could be had, so nothing was sent."""


class LostError(Exception):
    """The connection ended after the request went out, or nothing came for too long."""


class Connection(asyncio.Protocol):
    """One kept-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        """Raises `RefusedError`."""
        try:
            async with asyncio.timeout(_CONNECT_PATIENCE):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        except (OSError, TimeoutError) as error:
            raise RefusedError(type(error).__name__) from error
        return connection

    async def ask(self, request: bytes, patience: float = PATIENCE) -> Answer:
        """Send the request and return its answer. Raises `LostError`."""
        assert self._transport is not None, "open() has connected"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport.write(request)
        try:
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():  # it is this process that was late
                return answer.result()
            self.abort()
            raise LostError("no answer") from None
        finally:
            self._answer = None

    def send(self, data: bytes) -> None:
        """Send more of a request."""
        assert self._transport is not None, "open() has connected"
        if not self.closed:
            self._transport.write(data)

    def abort(self) -> None:
        """Close without a word; what was not sent yet never is."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = bytes(self._received).partition(END_OF_HEAD)
        if not found:
            return
        status, headers = parse_head(head)
        length = int(headers.get("content-length", 0))
        if len(rest) >= length and self._answer is not None and not self._answer.done():
            self._received.clear()
            if headers.get("connection", "").lower() == "close":
                self.closed = True
            self._answer.set_result(Answer(status, headers, rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LostError("connection lost"))


def http(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request's bytes."""
    announced = {"Host": "localhost", **(headers or {})}
    if body:
        announced["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {announced[name]}" for name in announced)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a loop of its own."""
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


def get(port: int, path: str, headers: dict[str, str] | None = None) -> Answer:
    """GET over a connection of its own. Raises `RefusedError` or `LostError`."""

    async def once() -> Answer:
        connection = await Connection.open(port)
        try:
            return await connection.ask(http("GET", path, headers))
        finally:
            connection.abort()

    return run(once())
