"""What a client and PostgreSQL say to each other, read for where to cut it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_WRITES = (b"INSERT INTO", b"COPY")
_IDLE = b"I"
"""The state in which no transaction is open."""


@dataclass
class Cut:
    """What is still to be cut, on whichever connection it comes first."""

    question: bool = False
    answer: Callable[[bytes, bytes], bool] | None = None
    """Whether to cut here, by the transaction's statements so far and its state."""


def commits_rows(statements: bytes, state: bytes) -> bool:
    """Whether rows are committed now; the trial of ``/readyz`` writes rows and rolls them back."""
    is_over = state == _IDLE and b"ROLLBACK" not in statements
    return is_over and any(write in statements for write in _WRITES)


class Conversation:
    """The messages of one connection, read for what is asked, and for when it is done.

    https://www.postgresql.org/docs/18/protocol-message-formats.html. The client has a statement
    executed by ``Q``, Query, or by ``B``, Bind, which names one of a ``P``, Parse, before. The
    server's ``Z``, ReadyForQuery, brings the transaction's state; by then, a statement outside of
    one has committed. What is held back from the ``C``, CommandComplete, before it, is what would
    tell the client.
    """

    def __init__(self, cut: Cut) -> None:
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
