"""Standard error as a log: a slow reader blocks no writer, and no write raises."""

import atexit
import functools
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from typing import TextIO, cast

import structlog

_MOST_WAITING = 2**20
"""Most bytes that wait for the reader; lines beyond that are dropped."""
_SECONDS_TO_DRAIN = 0.25
Send = Callable[[bytes], int]
"""Writes without waiting, and returns the number of bytes written; `BlockingIOError`: none."""
log = structlog.get_logger("iris_api")


@functools.lru_cache(maxsize=1)
def unblocked(stream: TextIO) -> TextIO:
    """A stream that writes to the same file, but never waits for a reader and never raises.

    Returns a stream without a file descriptor, as in tests, unchanged.
    """
    try:
        fileno = stream.fileno()
        mode = os.fstat(fileno).st_mode
    except (OSError, ValueError):
        return stream
    has_reader = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fileno)
    return cast(TextIO, _Queue(fileno) if has_reader else _File(fileno))


def drain() -> None:
    """Wait up to 0.25 s until the reader of standard error has taken the waiting lines.

    Runs when the interpreter exits; call it if a signal ends the process without that.
    """
    for queue in _queues:
        queue.drain()


class _File:
    """Writes at once. Drops and counts lines that cannot be written, as on a full disk."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._dropped = 0
        self._ends_within_line = False
        """Whether the file ends within a line."""

    def write(self, text: str) -> None:
        """Write the text, or drop it."""
        if not self._write(_encoded(text)):
            self._dropped += text.count("\n")
        elif self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", lines=dropped)

    def flush(self) -> None:
        """Do nothing: `write` needs no flush."""

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long it takes; False if that fails."""
        for piece in _pieces(b"\n" * self._ends_within_line + data):
            rest = piece
            try:
                while rest:
                    rest = rest[self._write_some(rest) :]
            except OSError:
                if len(rest) < len(piece):
                    self._ends_within_line = True
                return False
            self._ends_within_line = False
        return True

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fileno, data)
            except BlockingIOError:  # another process made the shared file non-blocking
                room = select.poll()
                room.register(self._fileno, select.POLLOUT)
                room.poll()


class _Queue(_File):
    """Writes to a reader, which may stop reading. Drops and counts lines beyond a bound.

    `write` first tries to send without waiting; a thread writes the rest, and only it waits. Some
    pipes do not allow that attempt; without it, a lone caller's request costs some % more.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno)
        self._send = _sender_to(fileno)
        self._changed = threading.Condition()
        self._data: list[bytes] = []
        self._waiting = 0
        """Bytes that are not written yet."""
        _queues.append(self)
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Write the text, leave it to the thread, or drop it."""
        data = _encoded(text)
        with self._changed:
            if self._send is not None and not self._waiting:
                data = _rest_of(data, self._send)
                if not data:
                    return
            elif self._waiting + len(data) > _MOST_WAITING:
                self._dropped += text.count("\n")
                return
            self._data.append(data)
            self._waiting += len(data)
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when all lines are written, or after `_SECONDS_TO_DRAIN`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _SECONDS_TO_DRAIN)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._data)
                data = b"".join(self._data)
                self._data.clear()
            self._write(data)  # False if the reader is gone; then no line is missed
            with self._changed:
                self._waiting -= len(data)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                log.warning("log_lines_dropped", lines=dropped)


_queues: list[_Queue] = []
atexit.register(drain)


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, up to ``PIPE_BUF`` bytes together, so that lines of several workers do not mix.

    A longer line comes in parts.
    """
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or start + select.PIPE_BUF
        yield data[start:end]
        start = end


def _rest_of(data: bytes, send: Send) -> bytes:
    """Send without waiting, and return the rest."""
    sent = 0
    try:
        for piece in _pieces(data):
            taken = send(piece)
            sent += taken
            if taken < len(piece):
                break
    except OSError:  # it is full, or the reader is gone, which the thread will find
        pass
    return data[sent:]


def _sender_to(fileno: int) -> Send | None:
    """A function that writes there without waiting, whatever other writers do; None if impossible.

    Reopens a pipe: O_NONBLOCK belongs to the open file description, which other processes share.
    Another user's pipe cannot be reopened.
    """
    mode = os.fstat(fileno).st_mode
    if stat.S_ISSOCK(mode):
        return functools.partial(_send_to_socket, fileno)
    if stat.S_ISFIFO(mode):
        try:
            own = os.open(f"/proc/self/fd/{fileno}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None
        return functools.partial(os.write, own)
    return None


def _send_to_socket(fileno: int, data: bytes) -> int:
    connection = socket.socket(fileno=fileno)
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    finally:
        connection.detach()  # else its destructor closes standard error
