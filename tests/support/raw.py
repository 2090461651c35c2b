"""HTTP by hand over a socket, for clients who are slow, wrong, or too many."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.flowers import SETOSA
from tests.support.service import Service

HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(SETOSA).encode()
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def predict(body: bytes = BODY, *headers: bytes) -> bytes:
    """A whole request."""
    lines = [*headers, b"Content-Length: %d" % len(body)]
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self, slug: str) -> dict[str, Any]:
        """The body, held to be this problem."""
        assert self.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = json.loads(self.body)
        assert body["type"] == f"urn:iris-api:problem:{slug}"
        assert body["status"] == self.status
        return body


class Raw:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.sendall(part)

    def answer(self, *, pause: float = 0) -> Answer:
        """The next answer; its body has a length. With a pause before each part, slowly."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        match = re.fullmatch(r"HTTP/1.1 (\d{3}) .*", line)
        assert match is not None, line
        headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
        length = int(headers["content-length"])
        while len(self._received) < length:
            time.sleep(pause)
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(match[1]), headers, body)

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
        while b"\r\n\r\n" not in self._received:
            self._receive()
        line, _, self._received = self._received.partition(b"\r\n\r\n")
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

    def _receive(self) -> None:
        data = self.connection.recv(65536)
        assert data, f"the server closed the connection after {self._received[:500]!r}"
        self._received += data


@contextmanager
def connected(service: Service, *, patience: float = 30) -> Iterator[Raw]:
    """A connection to the service, on which nothing takes longer than ``patience`` seconds."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=patience) as connection:
        yield Raw(connection)
