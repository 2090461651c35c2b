"""The real protocol over a transport in memory, before an application of the test's own."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from iris_api.observability.metrics import Metrics
from iris_api.server.connections import STATE, Connections, HttpProtocol
from iris_api.settings import Settings
from iris_api.web.limits import REFUSAL

ANSWER_HEAD = re.compile(rb"HTTP/1.1 (\d+) .*?content-length: (\d+).*?\r\n\r\n", re.DOTALL)


class Application:
    """Answers each request with its path, when the test lets it, having read the body or not."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.reads = True
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.begins_at_once = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = await self._read(receive) if self.reads else b""
        status = scope[REFUSAL].status if REFUSAL in scope and self.reads else 200
        content = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(content))]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        if self.begins_at_once:
            await send(start)
        await self.goes_on.wait()
        self.bodies.append(body)
        if not self.begins_at_once:
            await send(start)
        await send({"type": "http.response.body", "body": content})

    async def _read(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more and REFUSAL not in self.scopes[-1]:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return body


class Transport(asyncio.Transport):
    """A client in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.received = b""  # but for what has been taken for answers
        self.answers: list[tuple[int, str]] = []
        self.late_words = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: Any) -> None:
        if self.is_closed:
            self.late_words += data
        self.received += data
        while match := ANSWER_HEAD.match(self.received):
            end = match.end() + int(match[2])
            if len(self.received) < end:
                break
            self.answers.append((int(match[1]), self.received[match.end() : end].decode()))
            self.received = self.received[end:]

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 1024)}.get(name, default)


class Connection:
    """A connection to the application."""

    def __init__(self, settings: Settings) -> None:
        self.app = Application()
        config = Config(self.app, ws="none", log_config=None, access_log=False, proxy_headers=False)
        config.load()
        self.transport = Transport()
        loop = asyncio.get_running_loop()
        state = {STATE: Connections(settings, Metrics())}
        self.protocol = HttpProtocol(config, ServerState(), state, loop)
        self.protocol.connection_made(self.transport)

    def send(self, *parts: bytes) -> None:
        """As a client whom nobody tells to wait, but that the socket does."""
        for part in parts:
            assert not self.transport.is_paused
            self.protocol.data_received(part)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0)

    async def answers(self, count: int) -> list[tuple[int, str]]:
        """The statuses and bodies of so many answers, and of no more."""
        found = self.transport.answers
        await self.until(lambda: len(found) >= count)
        for _ in range(10):
            await asyncio.sleep(0)
        assert (len(found), self.transport.received) == (count, b"")
        assert self.transport.late_words == b""
        return found
