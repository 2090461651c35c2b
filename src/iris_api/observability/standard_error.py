"""Standard error as a log: a slow reader blocks no writer, and no write raises."""

import atexit
import functools
import os
import queue
import select
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO, cast

import structlog

_MAX_WRITES = 256
"""Writes that wait for the reader; lines beyond that are dropped."""
_DRAIN_SECONDS = 0.25
_POLL_SECONDS = 0.005
log = structlog.get_logger("iris_api")


@functools.lru_cache(maxsize=1)
def unblocked(stream: TextIO) -> TextIO:
    """A stream that writes to the same file, but never waits for a reader and never raises.

    Returns a stream without a file descriptor, as in tests, unchanged.
    """
    try:
        return cast(TextIO, _LogQueue(stream.fileno()))
    except (OSError, ValueError):
        return stream


def drain() -> None:
    """Wait up to 0.25 s until the reader of standard error has taken the waiting lines.

    Runs when the interpreter exits; call it if a signal ends the process without that.
    """
    for waiting in _queues:
        waiting.drain()


class _LogQueue:
    """Lines that a thread writes; only it waits for the reader."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # a signal handler may log
        self._accepted = self._done = 0  # writes
        self._is_broken = False
        self._dropped = 0
        self._lock = threading.RLock()
        _queues.append(self)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Leave the text to the thread, or drop it if too much waits."""
        data = text.encode(errors="backslashreplace")
        if threading.current_thread() is self._thread:  # it reports what was dropped
            with suppress(OSError):
                self._write(data)
            return
        with self._lock:
            if self._accepted - self._done >= _MAX_WRITES:
                self._dropped += data.count(b"\n")
                return
            self._accepted += 1
        self._queue.put(data)

    def flush(self) -> None:
        """Return at once: `logging` and structlog call it after each write."""

    def drain(self) -> None:
        """Return when all lines are written, or after `_DRAIN_SECONDS`."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._done < self._accepted and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _run(self) -> None:
        while True:
            for piece in _pieces(self._queue.get()):
                try:
                    self._write(piece)
                except OSError:  # the disk is full, or the reader is gone
                    self._is_broken = True
                    self._drop(piece)
                else:
                    self._report_dropped()
            self._done += 1

    def _write(self, data: bytes) -> None:
        if self._is_broken:  # the last line may be there in part
            data = b"\n" + data
        while data:
            try:
                data = data[os.write(self._fileno, data) :]
            except BlockingIOError:  # another process made the shared file non-blocking
                select.select([], [self._fileno], [])
        self._is_broken = False

    def _drop(self, data: bytes) -> None:
        with self._lock:
            self._dropped += data.count(b"\n")

    def _report_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("log_lines_dropped", lines=dropped)


_queues: list[_LogQueue] = []
atexit.register(drain)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, up to ``PIPE_BUF`` bytes together, so that lines of several workers do not mix.

    A longer line comes in parts.
    """
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1 or start + select.PIPE_BUF
        yield data[start:end]
        start = end
