"""A proxy before PostgreSQL that cuts connections, or holds everything up, where a test says so."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Self

from sqlalchemy import URL
from tests.support.conversation import Conversation, Cut, commits_rows

_CHUNK = 65536
_CANCELED = b"SERROR\0VERROR\0C57014\0Mcanceling statement due to user request\0\0"
_REFUSAL = b"E" + (len(_CANCELED) + 4).to_bytes(4) + _CANCELED + b"Z" + (5).to_bytes(4) + b"I"
"""ErrorResponse, and ReadyForQuery outside of a transaction."""


class Proxy:
    """Listens on TCP; connects to where the URL leads, be it TCP or a Unix socket.

    What is no coroutine may be called from any thread.
    """

    def __init__(self, upstream: URL) -> None:
        self.port = 0
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._passing = _open_way()
        self._links: dict[asyncio.Task[None], asyncio.Event] = {}
        self._cut = Cut()
        self._refused = b""

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
        self._cut.answer = commits_rows

    def refuse(self, word: str) -> None:
        """Answer the next ``BEGIN``, ``COMMIT`` or ``ROLLBACK`` as one that was cancelled.

        It does not reach PostgreSQL, so a transaction stays open there.
        """
        self._refused = word.encode()

    def has_refused(self) -> bool:
        """Whether nothing is left to be refused."""
        return not self._refused

    def has_cut(self) -> bool:
        """Whether nothing is left to be cut."""
        return self._cut == Cut()

    def swallow(self) -> None:
        """Let nothing pass, and close nothing: a black hole."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def recover(self) -> None:
        """Let everything pass again, what was held back included, as TCP would send it again."""
        self._loop.call_soon_threadsafe(self._passing.set)

    def recover_for_others(self) -> None:
        """Let connections pass that are yet to come; those that are there stay a black hole."""

        def replace() -> None:
            self._passing = _open_way()

        self._loop.call_soon_threadsafe(replace)

    def bury(self) -> None:
        """Close what is still a black hole, as both sides' systems do after a while."""

        def close() -> None:
            for link, passing in self._links.items():
                if passing is not self._passing:
                    link.cancel()

        self._loop.call_soon_threadsafe(close)

    def point_at(self, upstream: URL) -> None:
        """Lead connections that are yet to come to another server."""
        self._upstream = upstream

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
        self._links[link] = self._passing
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._link(reader, writer, self._links[link])
        finally:
            del self._links[link]
            writer.transport.abort()

    async def _link(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> None:
        await passing.wait()
        server_reader, server_writer = await self._connect()
        conversation = Conversation(self._cut)

        def asked(data: bytes) -> bytes | None:
            if self._refused and data[:1] == b"Q" and data[5:].startswith(self._refused):
                self._refused = b""
                writer.write(_REFUSAL)
                return b""
            return conversation.asked(data)

        ways = [
            asyncio.create_task(_forward(reader, server_writer, passing, asked)),
            asyncio.create_task(_forward(server_reader, writer, passing, conversation.answered)),
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


def _open_way() -> asyncio.Event:
    """An event that is set for as long as something passes."""
    passing = asyncio.Event()
    passing.set()
    return passing


async def _forward(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    passing: asyncio.Event,
    select: Callable[[bytes], bytes | None],
) -> None:
    """Forward one way what ``select`` lets pass, until the end or until it gives None."""
    while data := await reader.read(_CHUNK):
        await passing.wait()
        part = select(data)
        if part is None:
            return
        writer.write(part)
        await writer.drain()
    await passing.wait()  # an end does not pass through a black hole either
