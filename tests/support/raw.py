"""HTTP by hand over a socket, for clients who are slow, wrong, or too many."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.answers import END_OF_HEAD, Answer, parse_head
from tests.support.flowers import SETOSA
from tests.support.service import Service

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(SETOSA).encode()
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def predict(body: bytes = BODY, *headers: bytes) -> bytes:
    """A whole request."""
    lines = [*headers, b"Content-Length: %d" % len(body)]
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


class Raw:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.sendall(part)

    def send_while_open(self, *parts: bytes) -> None:
        """Send each part, unless the server closes the connection before the last one."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send(*parts)

    def answer(self, *, pause: float = 0) -> Answer:
        """The next answer; its body has a length. With a pause before each part, slowly."""
        while END_OF_HEAD not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(END_OF_HEAD)
        status, headers = parse_head(head)
        length = int(headers["content-length"])
        while len(self._received) < length:
            time.sleep(pause)
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(status, headers, body)

    def answer_or_end(self) -> Answer | None:
        """The next answer, past any 1xx; None where the server has closed the connection."""
        while END_OF_HEAD not in self._received:
            if self._is_at_end():
                assert self._received == b""
                return None
        if self._received.startswith(b"HTTP/1.1 1"):
            self.line()
            return self.answer_or_end()
        return self.answer()

    def is_answered(self, seconds: float) -> bool:
        """Whether something comes, an answer or the end, within this time."""
        if self._received:
            return True
        patience = self.connection.gettimeout()
        self.connection.settimeout(seconds)
        try:
            self.connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.connection.settimeout(patience)
        return True

    def refusal(self, status: int, slug: str) -> dict[str, Any]:
        """The next answer: this problem, under an id, and with the connection's end."""
        answer = self.answer()
        assert answer.status == status
        body = answer.problem(slug)
        assert body["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["connection"] == "close"
        assert self.is_closed()
        return body

    def line(self) -> bytes:
        """The first line of a head that is nothing but that."""
        while END_OF_HEAD not in self._received:
            self._receive()
        line, _, self._received = self._received.partition(END_OF_HEAD)
        return line

    def is_closed(self) -> bool:
        """Wait until the server has closed the connection, having said nothing more."""
        assert self._received == b""
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True

    def rest(self) -> bytes:
        """What the server still says before it closes the connection."""
        parts = [self._received]
        self._received = b""
        while data := self.connection.recv(65536):
            parts.append(data)
        return b"".join(parts)

    def _is_at_end(self) -> bool:
        try:
            data = self.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        self._received += data
        return not data

    def _receive(self) -> None:
        data = self.connection.recv(65536)
        assert data, f"the server closed the connection after {self._received[:500]!r}"
        self._received += data


@contextmanager
def connected(service: Service, *, patience: float = 30) -> Iterator[Raw]:
    """A connection to the service, on which nothing takes longer than ``patience`` seconds."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=patience) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Raw(connection)
