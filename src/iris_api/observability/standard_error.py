"""Standard error for a log that must not hold up the service it tells of."""

import functools
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from typing import TextIO, cast

import structlog

_PATIENCE_MS = 100
"""How long a reader who does not read keeps the service waiting, once."""

Send = Callable[[bytes], int]
"""Writes what is taken at once, and returns how much that was; `BlockingIOError`: nothing."""
log = structlog.get_logger("iris_api")


@functools.lru_cache(maxsize=1)
def unblocked(stream: TextIO) -> TextIO:
    """The stream, made such that a reader who stops reading does not stop who writes.

    Where it is a pipe or a socket, for a file and a terminal have no such reader; elsewhere than on
    Linux it stays as it is.
    """
    try:
        send = _sender_to(stream.fileno())
    except OSError:  # none of the system's, or no way to it
        return stream
    return stream if send is None else cast(TextIO, _Unblocked(send, stream.fileno()))


class _Unblocked:
    """Text for a reader; where that one is stalled, it is dropped, and what was lost is counted."""

    def __init__(self, send: Send, fileno: int) -> None:
        self._send = send
        self._room = select.poll()
        self._room.register(fileno, select.POLLOUT)
        self._lock = threading.Lock()  # the model's threads may log as well
        self._rest = b""
        """Of the last text that was not dropped; while there is any, the reader is stalled."""
        self._lost_lines = 0

    def write(self, text: str) -> None:
        """Write the text, waiting shortly for its reader, or drop it."""
        with self._lock:
            self._push()
            if self._rest:
                self._lost_lines += text.count("\n")
                return
            lost, self._lost_lines = self._lost_lines, 0
            self._rest = text.encode(errors="backslashreplace")
            self._push()
            while self._rest and self._room.poll(_PATIENCE_MS):
                self._push()
        if lost:
            log.warning("lines of the log are lost, for it was not read", lines=lost)

    def flush(self) -> None:
        """Do nothing: what was written is with the system, or waits for the reader."""

    def _push(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[self._send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more
            self._rest = b""


def _sender_to(fileno: int) -> Send | None:
    """How to write there without waiting, whatever others who write there do.

    A pipe is opened anew, since whether it waits is kept with what was opened, which is shared.
    """
    mode = os.fstat(fileno).st_mode
    if stat.S_ISFIFO(mode):
        own = os.open(f"/proc/self/fd/{fileno}", os.O_WRONLY | os.O_NONBLOCK)
        return functools.partial(os.write, own)
    if stat.S_ISSOCK(mode):
        return functools.partial(_send_to_socket, fileno)
    return None


def _send_to_socket(fileno: int, data: bytes) -> int:
    connection = socket.socket(fileno=fileno)
    try:
        return connection.send(data, socket.MSG_DONTWAIT)
    finally:
        connection.detach()  # it is not ours to close
