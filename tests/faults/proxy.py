"""A TCP proxy before PostgreSQL that can swallow the traffic, or cut a commit's answer."""

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

_CHUNK = 65536
_LENGTH = struct.Struct("!I")


class Proxy:
    """Forwards to ``upstream``, from a thread of its own, until it is told to do harm."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self._upstream = upstream
        self._armed = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._links: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def swallow(self) -> None:
        """From now on nothing passes, either way, and nothing is closed: a black hole."""
        self._loop.call_soon_threadsafe(self._forwarding.clear)

    def forward(self) -> None:
        """Let pass what was held back, as TCP would send it again."""
        self._loop.call_soon_threadsafe(self._forwarding.set)

    def cut_next_commit(self) -> None:
        """Close the service's side in place of the next answer to a commit that wrote rows."""
        self._armed += 1

    def has_cut_all(self) -> bool:
        """Whether nothing is left to be cut."""
        return self._armed == 0

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None, "start_server makes a task of this"
        self._links.add(link)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._link(reader, writer)
        finally:
            writer.transport.abort()
            self._links.discard(link)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._forwarding.wait()
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        conversation = _Conversation(self._take_cut)
        try:
            ways = {
                asyncio.create_task(self._forward(reader, server_writer, conversation.asked)),
                asyncio.create_task(self._forward(server_reader, writer, conversation.answered)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passing: Callable[[bytes], bytes | None],
    ) -> None:
        """Forward one way what ``passing`` lets pass, until the end or until it gives None."""
        while data := await reader.read(_CHUNK):
            await self._forwarding.wait()
            part = passing(data)
            if part is None:
                return
            writer.write(part)
            await writer.drain()
        await self._forwarding.wait()  # an end does not pass through a black hole either

    def _take_cut(self) -> bool:
        """Whether a commit's answer is to be cut now; it is the only one then."""
        if self._armed == 0:
            return False
        self._armed -= 1
        return True


class _Conversation:
    """The messages of one connection, read for the end of a transaction that wrote.

    https://www.postgresql.org/docs/18/protocol-message-formats.html. A command of the client's that
    writes (``B``, Bind, of a statement known from its ``P``, Parse; or ``Q``, Query) makes the next
    ``Z``, ReadyForQuery, with the state ``I``, no transaction open, the answer to its commit: by
    then the server has committed. What is held back from the ``C``, CommandComplete, before it, is
    what would tell the client.
    """

    def __init__(self, take_cut: Callable[[], bool]) -> None:
        self._take_cut = take_cut
        self._asked = _Messages(typed_from_the_start=False)
        self._answered = _Messages(typed_from_the_start=True)
        self._statements: dict[bytes, bytes] = {}
        self._held = bytearray()
        self._holds = self._wrote = False

    def asked(self, data: bytes) -> bytes:
        """Everything from the client passes."""
        for kind, content in self._asked.read(data):
            first, _, rest = content.partition(b"\0")
            second = rest.partition(b"\0")[0]
            if kind == b"P":
                self._statements[first] = second
            elif kind == b"B":
                self._wrote |= b"INSERT INTO" in self._statements.get(second, b"")
            elif kind == b"Q":
                self._wrote |= first.lstrip().startswith(b"COPY")
        return data

    def answered(self, data: bytes) -> bytes | None:
        """What may be forwarded of the server's; None where the connection is to be cut here."""
        passing = bytearray()
        for kind, content in self._answered.read(data):
            self._holds |= self._wrote and kind == b"C"
            target = self._held if self._holds else passing
            target += kind + _LENGTH.pack(len(content) + _LENGTH.size) + content
            if kind == b"Z" and self._wrote:
                if content == b"I" and self._take_cut():
                    return None
                self._wrote, self._holds = content != b"I", False
                passing += self._held
                self._held.clear()
        return bytes(passing)


class _Messages:
    """Takes a stream apart: a type, which the client's first one lacks, a length, the content."""

    def __init__(self, *, typed_from_the_start: bool) -> None:
        self._typed = typed_from_the_start
        self._received = bytearray()

    def read(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The types and contents of the messages that are complete now."""
        self._received += data
        while len(self._received) >= self._typed + _LENGTH.size:
            begin = self._typed + _LENGTH.size
            [length] = _LENGTH.unpack_from(self._received, self._typed)
            if len(self._received) < self._typed + length:
                return
            kind = bytes(self._received[: self._typed])
            content = bytes(self._received[begin : self._typed + length])
            del self._received[: self._typed + length]
            self._typed = True
            yield kind, content
