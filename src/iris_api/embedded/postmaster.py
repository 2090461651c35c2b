"""Starts, watches, restarts and stops the embedded PostgreSQL's process."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from iris_api import signals
from iris_api.errors import ConfigurationError

MOST_ENDS = 5
SECONDS_OF_ENDS = 60.0
"""A server that ends `MOST_ENDS` times within this time is not restarted."""
_START_SECONDS = 60  # crash recovery included
_STOP_SECONDS = 20
_RELEASE_SECONDS = 20.0
"""The time for the backends of a killed server to notice; statements end after a few seconds."""
_IN_USE = ("pre-existing shared memory block", "lock file")
"""PostgreSQL's words if an earlier server has not released everything yet."""
_LOG_BYTES, _LOG_LINES = 65_536, 10
_REASONS = ("FATAL:", "PANIC:")
_TO_CLIENTS = "the database system is"
"""PostgreSQL's words for a connection that it refuses as it starts or stops."""
_MAX_PAUSE_SECONDS = 8.0
log = structlog.get_logger("iris_api")


@dataclass(frozen=True, slots=True)
class _End:
    """How a server ended."""

    was_ready: bool
    exit_code: int | None = None
    """Negative: the signal's number. None: the server was not started."""
    how: str = ""
    said: str = ""
    """The last lines that it logged, its reason first."""


class Postmaster:
    """One PostgreSQL server, and the thread that starts and restarts it.

    The thread lives as long as the server is wanted: the system sends the ``--pdeathsig`` of
    `as_ordinary_user` when the *thread* that started a process ends, not that thread's process.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        *,
        prepare: Callable[[Callable[[], bool]], None],
        is_ready: Callable[[int], bool],
    ) -> None:
        """Take the command to run, and the file for its output.

        ``prepare`` is called before each start, with a function that says whether to give up.
        ``is_ready`` says whether the server with this pid takes connections.
        """
        self._command = command
        self._log_file = log_file
        self._log_offset = log_file.stat().st_size if log_file.exists() else 0
        """Where the lines of the last start begin, in bytes."""
        self._prepare = prepare
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        """Held while a process is started, so that `_stop` either prevents the start or sees it."""
        self._is_stopping = threading.Event()
        self._has_been_ready = threading.Event()
        self._failure: ConfigurationError | None = None
        self._thread = threading.Thread(target=self._run, name="postmaster", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the server during the block.

        Raises `ConfigurationError` if it does not start, or if it ends `MOST_ENDS` times within
        `SECONDS_OF_ENDS`. In the second case, SIGTERM asks the block to end, and this error
        replaces any exception of the block.
        """
        try:
            with signals.defer_signals() as is_asked:
                self._thread.start()
                self._wait_until_ready(is_asked)
            yield
        finally:
            try:
                with signals.defer_signals():
                    self._stop()
            finally:
                if self._failure is not None:
                    raise self._failure

    def _wait_until_ready(self, is_given_up: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._has_been_ready.wait(0.05):
            if is_given_up():
                return
            if self._failure is None and time.monotonic() > deadline:
                how = f"It was not ready after {_START_SECONDS} s."
                self._failure = self._failed_start(how, self._last_lines())
            if self._failure is not None:
                raise self._failure

    def _stop(self) -> None:
        """Try a fast shutdown, an immediate one, then SIGKILL; PostgreSQL recovers from each."""
        with self._starting:
            self._is_stopping.set()
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process is not None:
                self._process.send_signal(number)
            self._thread.join(_STOP_SECONDS)
            if not self._thread.is_alive():
                return

    def _run(self) -> None:
        """Start the server, and restart it when it ends unexpectedly, until it ends too often."""
        ends: list[float] = []
        pause = 0.0
        release_deadline = time.monotonic() + _RELEASE_SECONDS
        while not self._is_stopping.wait(pause):
            end = self._serve()
            if self._is_stopping.is_set():
                return
            if self._is_in_use(end) and time.monotonic() < release_deadline:
                pause = 0.1
                continue
            if not self._has_been_ready.is_set():
                self._failure = self._failed_start(end.how, end.said)
                return
            now = time.monotonic()
            ends = [*(one for one in ends if one > now - SECONDS_OF_ENDS), now]
            log.warning("embedded_postgresql_ended", exit_code=end.exit_code, how=end.how)
            if len(ends) >= MOST_ENDS:
                self._give_up(end)
                return
            pause = 0.0 if end.was_ready else min(max(1.0, 2 * pause), _MAX_PAUSE_SECONDS)
            release_deadline = now + _RELEASE_SECONDS

    def _serve(self) -> _End:
        """Start the server and wait for its end."""
        began = time.monotonic()
        try:
            self._prepare(self._is_stopping.is_set)
            with self._starting, self._log_file.open("ab") as output:
                if self._is_stopping.is_set():
                    return _End(was_ready=False)
                self._log_offset = output.tell()
                self._process = process = subprocess.Popen(  # noqa: S603, the wheel's own program
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C must not reach it, only the service
                )
        except OSError as error:
            return _End(was_ready=False, how=f"It could not be started: {error.strerror}.")
        while not (was_ready := self._is_ready(process.pid)) and process.poll() is None:
            time.sleep(0.01)
        if was_ready:
            if self._has_been_ready.is_set():
                seconds = round(time.monotonic() - began, 2)
                log.info("embedded_postgresql_ready", pid=process.pid, seconds=seconds)
            self._has_been_ready.set()
        code = process.wait()
        return _End(was_ready, code, _how_it_ended(code), self._last_lines())

    @staticmethod
    def _is_in_use(end: _End) -> bool:
        return not end.was_ready and any(words in end.said for words in _IN_USE)

    def _failed_start(self, how: str, said: str) -> ConfigurationError:
        return ConfigurationError(
            f"The embedded PostgreSQL did not start. {how} Mend the reason below, or set "
            "IRIS_DATABASE_URL to use another PostgreSQL. "
            f"{self._log_file} says of this start:\n{said}"
        )

    def _give_up(self, end: _End) -> None:
        self._failure = ConfigurationError(
            f"The embedded PostgreSQL ended {MOST_ENDS} times within {SECONDS_OF_ENDS:g} s, so the "
            f"service stops. {end.how} {self._log_file} says of its last start:\n{end.said}"
        )
        signals.ask_to_end()

    def _last_lines(self) -> str:
        """The last lines of the last start, but the reason why it failed comes first."""
        try:
            with self._log_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._log_offset, size), size - _LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({error.strerror})"
        return "\n".join(_reason_first(lines)) or "(nothing)"


def _reason_first(lines: list[str]) -> list[str]:
    """The last of PostgreSQL's reasons to end, then the last lines before and after it."""
    reasons = [
        line for line in lines if any(word in line for word in _REASONS) and _TO_CLIENTS not in line
    ]
    first = reasons[-1:]
    return first + [line for line in lines if line not in first][-_LOG_LINES + len(first) :]


def _how_it_ended(code: int) -> str:
    """The exit code or the signal, as a sentence."""
    if code >= 0:
        return f"It exited with code {code}."
    return f"Signal {-code} ended it ({signal.strsignal(-code)})."
