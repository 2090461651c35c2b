"""Standard error as a log, which no writer waits for, and no writer fails because of."""

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
"""Bytes that may wait for a reader; lines beyond that are dropped."""
_SECONDS_TO_DRAIN = 0.25
Send = Callable[[bytes], int]
"""Writes what is taken at once, and returns how much that was; `BlockingIOError`: nothing."""
log = structlog.get_logger("iris_api")


@functools.lru_cache(maxsize=1)
def unblocked(stream: TextIO) -> TextIO:
    """A stream that writes to the same file, but never waits and never raises.

    A stream without a file descriptor, as tests have it, is returned itself.
    """
    try:
        fileno = stream.fileno()
        mode = os.fstat(fileno).st_mode
    except (OSError, ValueError):
        return stream
    has_reader = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fileno)
    return cast(TextIO, _Queue(fileno) if has_reader else _File(fileno))


def drain() -> None:
    """Give the reader of standard error 0.25 s to take the lines that wait.

    Runs at the interpreter's end; call it where a signal ends the process without that.
    """
    for queue in _queues:
        queue.drain()


class _File:
    """Writes at once. Lines that cannot be written, as on a full disk, are dropped and counted."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._dropped = 0
        self._is_torn = False
        """Whether the last line in the file has no end."""

    def write(self, text: str) -> None:
        """Write the text, or drop it."""
        if not self._write(_encoded(text)):
            self._dropped += text.count("\n")
        elif self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", lines=dropped)

    def flush(self) -> None:
        """Do nothing: `write` keeps nothing back."""

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long it takes; False where the file does not take it."""
        for piece in _pieces(b"\n" * self._is_torn + data):
            rest = piece
            try:
                while rest:
                    rest = rest[self._write_some(rest) :]
            except OSError:
                if len(rest) < len(piece):
                    self._is_torn = True
                return False
            self._is_torn = False
        return True

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fileno, data)
            except BlockingIOError:  # another process that shares the file has made it so
                room = select.poll()
                room.register(self._fileno, select.POLLOUT)
                room.poll()


class _Queue(_File):
    """For a reader, who may stop reading. Lines beyond a bound are dropped and counted.

    What the reader does not take at once is left to a thread, which alone waits. Without that
    attempt, which is not possible with every pipe, a lone caller's request costs some % more.
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
        """Return when all is written, or after `_SECONDS_TO_DRAIN`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _SECONDS_TO_DRAIN)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._data)
                data = b"".join(self._data)
                self._data.clear()
            self._write(data)  # False where the reader is gone, who misses nothing
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
    """Whole lines, as many as a pipe takes together, so that those of several workers do not mix.

    A line that is longer than that comes in parts.
    """
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or start + select.PIPE_BUF
        yield data[start:end]
        start = end


def _rest_of(data: bytes, send: Send) -> bytes:
    """Send what is taken at once, and return what is not."""
    sent = 0
    try:
        for piece in _pieces(data):
            taken = send(piece)
            sent += taken
            if taken < len(piece):
                break
    except OSError:  # nothing is taken now, or the reader is gone, as the thread will find
        pass
    return data[sent:]


def _sender_to(fileno: int) -> Send | None:
    """How to write there without waiting, whatever others who write there do; None: in no way.

    A pipe is opened anew, since whether it waits is kept with what was opened, which is shared.
    Another user's pipe cannot be opened.
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
        connection.detach()  # it is not ours to close
