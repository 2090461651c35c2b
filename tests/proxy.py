"""A proxy before PostgreSQL that cuts connections, or holds everything up, where a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from sqlalchemy import URL

_CHUNK = 65536
_WRITES = (b"INSERT INTO", b"COPY")
_IDLE = b"I"
"""The state in which no transaction is open."""


class Proxy:
    """Listens on TCP; connects to where the URL leads, be it TCP or a Unix socket.

    What is no coroutine may be called from any thread.
    """

    def __init__(self, upstream: URL) -> None:
        self.port = 0
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._links: set[asyncio.Task[None]] = set()
        self._cut = _Cut()

    @classmethod
    @asynccontextmanager
    async def before(cls, upstream: URL) -> AsyncIterator[Self]:
        proxy = cls(upstream)
        await proxy.listen()
        try:
            yield proxy
        finally:
            await proxy.vanish()

    @property
    def url(self) -> URL:
        """The same database, through the proxy."""
        return self._upstream.set(host="127.0.0.1", port=self.port, query={"ssl": "disable"})

    def cut_question(self) -> None:
        """Cut the next connection on which something is sent, and forward nothing of it."""
        self._cut.question = True

    def cut_answer(self, to: str) -> None:
        """Cut the next connection on which PostgreSQL says to have done a statement with ``to``."""
        self._cut.answer = lambda statements, _state: to.encode() in statements

    def cut_commit(self) -> None:
        """Cut the next connection on which PostgreSQL says to have committed rows."""
        self._cut.answer = _commits_rows

    def has_cut(self) -> bool:
        """Whether nothing is left to be cut."""
        return self._cut == _Cut()

    def swallow(self) -> None:
        """Let nothing pass, and close nothing: a black hole."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def recover(self) -> None:
        """Let everything pass again, what was held back included, as TCP would send it again."""
        self._loop.call_soon_threadsafe(self._passing.set)

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        """Cut all connections, and refuse others."""
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None, "start_server makes a task of this"
        self._links.add(link)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._link(reader, writer)
        finally:
            self._links.discard(link)
            writer.transport.abort()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        server_reader, server_writer = await self._connect()
        conversation = _Conversation(self._cut)
        ways = [
            asyncio.create_task(self._forward(reader, server_writer, conversation.asked)),
            asyncio.create_task(self._forward(server_reader, writer, conversation.answered)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            server_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._upstream.port or 5432
        folder = self._upstream.query.get("host")
        if folder:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._upstream.host, port)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passing: Callable[[bytes], bytes | None],
    ) -> None:
        """Forward one way what ``passing`` lets pass, until the end or until it gives None."""
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            part = passing(data)
            if part is None:
                return
            writer.write(part)
            await writer.drain()
        await self._passing.wait()  # an end does not pass through a black hole either


@dataclass
class _Cut:
    """What is still to be cut, on whichever connection it comes first."""

    question: bool = False
    answer: Callable[[bytes, bytes], bool] | None = None
    """Whether to cut here, by the transaction's statements so far and its state."""


def _commits_rows(statements: bytes, state: bytes) -> bool:
    return state == _IDLE and any(write in statements for write in _WRITES)


class _Conversation:
    """The messages of one connection, read for what is asked, and for when it is done.

    https://www.postgresql.org/docs/18/protocol-message-formats.html. The client has a statement
    executed by ``Q``, Query, or by ``B``, Bind, which names one of a ``P``, Parse, before. The
    server's ``Z``, ReadyForQuery, brings the transaction's state; by then, a statement outside of
    one has committed. What is held back from the ``C``, CommandComplete, before it, is what would
    tell the client.
    """

    def __init__(self, cut: _Cut) -> None:
        self._cut = cut
        self._client = _Messages(first_has_type=False)
        self._server = _Messages(first_has_type=True)
        self._prepared: dict[bytes, bytes] = {}
        self._statements = b""
        self._held = b""
        self._is_done = False

    def asked(self, data: bytes) -> bytes | None:
        """What may be forwarded of the client's; None where the connection is to be cut here."""
        if self._cut.question:
            self._cut.question = False
            return None
        for kind, content in self._client.read(data):
            if kind == b"P":
                name, statement, _ = content.split(b"\0", 2)
                self._prepared[name] = statement
            elif kind == b"B":
                _, name, _ = content.split(b"\0", 2)
                self._statements += self._prepared[name]
            elif kind == b"Q":
                self._statements += content
        return data

    def answered(self, data: bytes) -> bytes | None:
        """What may be forwarded of the server's; None where the connection is to be cut here."""
        passing = b""
        for kind, content in self._server.read(data):
            self._held += kind + (len(content) + 4).to_bytes(4) + content
            self._is_done |= kind == b"C"
            if kind == b"Z":
                if self._cut.answer and self._cut.answer(self._statements, content):
                    self._cut.answer = None
                    return None
                self._is_done = False
                if content == _IDLE:
                    self._statements = b""
            if not self._is_done:
                passing += self._held
                self._held = b""
        return passing


class _Messages:
    """Takes a stream apart: a type, which the client's first one lacks, a length, the content."""

    def __init__(self, *, first_has_type: bool) -> None:
        self._type_size = int(first_has_type)
        self._received = bytearray()

    def read(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The types and contents of the messages that are complete now."""
        self._received += data
        while len(self._received) >= (begin := self._type_size + 4):
            end = self._type_size + int.from_bytes(self._received[self._type_size : begin])
            if len(self._received) < end:
                return
            yield bytes(self._received[: self._type_size]), bytes(self._received[begin:end])
            del self._received[:end]
            self._type_size = 1
