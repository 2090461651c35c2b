"""A proxy between the service and PostgreSQL, which loses what passes where the test says so."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

from sqlalchemy import URL

_READY = b"Z\x00\x00\x00\x05"
"""ReadyForQuery, less the transaction's state: by then, a statement of its own has committed."""


class Proxy:
    """Listens on TCP; connects to where the URL leads, be it TCP or a Unix socket."""

    def __init__(self, upstream: URL) -> None:
        self._upstream = upstream
        self._port = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._cut_answer: re.Pattern[bytes] | None = None
        self._cut_question = False
        self._links: set[asyncio.Task[None]] = set()
        self.cuts = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, upstream: URL) -> AsyncIterator[Self]:
        proxy = cls(upstream)
        await proxy.listen()
        yield proxy
        await proxy.vanish()

    @property
    def url(self) -> URL:
        """The same database, through the proxy."""
        return self._upstream.set(host="127.0.0.1", port=self._port, query={"ssl": "disable"})

    def cut_answer(self, command: str) -> None:
        """Cut the next connection on which PostgreSQL says to have done a command, instead."""
        self._cut_answer = re.compile(
            rb"C\x00\x00\x00." + command.encode() + rb"[ \d]*\x00", re.DOTALL
        )

    def cut_question(self) -> None:
        """Cut the next connection on which something is sent, and forward nothing of it."""
        self._cut_question = True

    def swallow(self) -> None:
        """Let nothing pass, and close nothing: a black hole."""
        self._passing.clear()

    def recover(self) -> None:
        """Let everything pass again, what was held back included."""
        self._passing.set()

    async def listen(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def vanish(self) -> None:
        """Cut all connections, and refuse others."""
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
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
        ways = [
            asyncio.create_task(self._forward_questions(reader, server_writer)),
            asyncio.create_task(self._forward_answers(server_reader, writer)),
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

    async def _forward_questions(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            if self._cut_question:
                self._cut_question = False
                self.cuts += 1
                return
            writer.write(data)
            await writer.drain()

    async def _forward_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            if self._cut_answer and self._cut_answer.search(data):
                while data[-6:-1] != _READY:  # the commit comes before it
                    more = await reader.read(65536)
                    if not more:
                        break
                    data += more
                self._cut_answer = None
                self.cuts += 1
                return
            writer.write(data)
            await writer.drain()
