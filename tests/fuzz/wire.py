"""HTTP/1.1 by hand: any bytes go out, and what comes back is read as it is."""

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

Header = tuple[bytes, bytes]

JSON: Header = (b"Content-Type", b"application/json")
CHUNKED: Header = (b"Transfer-Encoding", b"chunked")
REQUEST_ID: Header = (b"X-Request-ID", b"fuzz")
"""No answer has a random id in it, so a value that was sent can only be there as an echo."""
_PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send each part on its own. The server may well have hung up before the last one."""
        with suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                self.socket.sendall(part)

    def is_answered(self, seconds: float) -> bool:
        """Whether something comes, an answer or the end, within this time."""
        if self.received:
            return True
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.socket.settimeout(_PATIENCE)
        return True

    def read(self) -> Answer | None:
        """The next answer, past any 1xx; None where the server has hung up instead."""
        while b"\r\n\r\n" not in self.received:
            if not self._receive():
                assert not self.received
                return None
        top, _, self.received = self.received.partition(b"\r\n\r\n")
        line, *lines = top.decode("latin-1").split("\r\n")
        version, status = line.split(" ")[:2]
        assert version == "HTTP/1.1"
        headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        if status.startswith("1"):
            return self.read()
        length = int(headers["content-length"])
        while len(self.received) < length:
            assert self._receive(), "it hung up within an answer"
        content, self.received = self.received[:length], self.received[length:]
        return Answer(int(status), headers, content)

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.received += data
        return bool(data)


def head(path: str, *headers: Header) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: localhost"]
    lines += [name + b": " + value for name, value in (REQUEST_ID, *headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def length_of(body: bytes) -> Header:
    return b"Content-Length", b"%d" % len(body)


def request(path: str, body: bytes, *headers: Header) -> bytes:
    """A request of one piece, its length announced."""
    return head(path, *headers, length_of(body)) + body


def in_chunks(body: bytes, sizes: Sequence[int], extension: bytes = b"") -> list[bytes]:
    """The body as chunks of these sizes, over and over, and the end."""
    chunks: list[bytes] = []
    while body:
        size = sizes[len(chunks) % len(sizes)]
        piece, body = body[:size], body[size:]
        chunks.append(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece))
    return [*chunks, b"0\r\n\r\n"]
