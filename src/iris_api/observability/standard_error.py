"""Standard error as a log, which no writer waits for, and no writer fails because of."""

import atexit
import functools
import os
import select
import stat
import threading
from typing import TextIO, cast

import structlog

_MOST_WAITING = 2**20
"""Characters that may wait for a reader; lines beyond that are dropped."""
_SECONDS_TO_DRAIN = 0.5
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
    """Give the reader of standard error 0.5 s to take the lines that wait.

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
        if not self._write(text):
            self._dropped += text.count("\n")
        elif self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", lines=dropped)

    def flush(self) -> None:
        """Do nothing: `write` keeps nothing back."""

    def _write(self, text: str) -> bool:
        """Write the text, however long it takes; False where the file does not take it.

        In pieces that a pipe takes whole, or the lines of several workers would mix.
        """
        data = b"\n" * self._is_torn + text.encode(errors="backslashreplace")
        start = 0
        try:
            while start < len(data):
                end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
                start += self._write_some(data[start : end or start + select.PIPE_BUF])
        except OSError:
            if start:
                self._is_torn = data[start - 1] != ord("\n")
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
    """Writes in a thread, which alone waits for the reader. Lines beyond a bound are dropped."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno)
        self._changed = threading.Condition()
        self._texts: list[str] = []
        self._waiting = 0
        """Characters that are not written yet."""
        _queues.append(self)
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> None:
        """Leave the text to the thread, or drop it."""
        with self._changed:
            if self._waiting + len(text) > _MOST_WAITING:
                self._dropped += text.count("\n")
                return
            self._texts.append(text)
            self._waiting += len(text)
            self._changed.notify_all()

    def drain(self) -> None:
        """Return when all is written, or after `_SECONDS_TO_DRAIN`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _SECONDS_TO_DRAIN)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                text = "".join(self._texts)
                self._texts.clear()
            self._write(text)  # False where the reader is gone, who misses nothing
            with self._changed:
                self._waiting -= len(text)
                dropped, self._dropped = self._dropped, 0
                self._changed.notify_all()
            if dropped:
                log.warning("log_lines_dropped", lines=dropped)


_queues: list[_Queue] = []
atexit.register(drain)
