"""The parent of several workers: it begins them, replaces those that end, and ends after them."""

import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog
from uvicorn import Config
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from iris_api.observability.shared_files import FOLDER_VARIABLE, remove_folder
from iris_api.server.listener import SECONDS_TO_CONNECT, turn_away

_SECONDS_BETWEEN_SIGNALS = 0.1
_SECONDS_TO_NOTE = 0.05
SECONDS_UNTIL_NOTED = 0.5
"""What the parent may take to note a signal, which the workers may get as well, if it is busy."""
SECONDS_TO_LEAVE = SECONDS_UNTIL_NOTED + _SECONDS_BETWEEN_SIGNALS + SECONDS_TO_CONNECT
_SECONDS_TO_ANSWER = 0.01
_SECONDS_TO_BEGIN = 100
"""For a worker to import the application, along with the others, on a machine that is busy."""
_SECONDS_TO_END = 2.5
"""What a worker may take beyond delay and timeout; containers are to have 3 (docs/promises.md)."""
_LONGEST_PAUSE = 30.0
_STOPPING = {signal.SIGINT, signal.SIGTERM}
log = structlog.get_logger("iris_api")


@dataclass(slots=True)
class _Known:
    """What the parent knows of a worker, in seconds of the monotonic clock."""

    begun: float
    heard: float | None = None
    """When it said last that it serves; None: it never has."""
    is_asked: bool = False
    """Whether it owes an answer."""
    due: float = math.inf
    """When it is to be replaced, once it has ended."""


class _Worker(Process):
    """uvicorn's worker, but it owes the parent its first answer until it serves.

    So whoever has served has said so, though it was killed before it could be asked again.
    """

    def pong(self) -> None:
        """Wait for a question, and until there is the answer that it serves."""
        self.child_conn.recv()
        while self._server is None or not self._server.started:
            time.sleep(_SECONDS_TO_ANSWER)
        self.child_conn.send(self._server.started)


class _Exit(threading.Event):
    """uvicorn's event to exit, but who waits for it is not kept from a signal that has come."""

    def __init__(self, signals: list[int]) -> None:
        super().__init__()
        self._signals = signals

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it is set, after ``timeout`` seconds or a signal at the latest."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self._signals and time.monotonic() < end:
            if super().wait(_SECONDS_TO_NOTE):
                return True
        return self.is_set()


class Supervisor(Multiprocess):
    """uvicorn's parent of the workers, but never deaf, neither while one hangs nor at the end.

    Serves until SIGINT, SIGTERM or SIGHUP. ``delay`` is what the workers serve on for when they are
    told to stop, in seconds.
    """

    def __init__(self, config: Config, sockets: list[socket.socket], delay: float) -> None:
        outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup has it
        super().__init__(config, sockets)
        self.should_exit = _Exit(self.signal_queue)
        if outlives_terminal:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._delay = delay
        self._known: dict[Process, _Known] = {}
        self._leaving: list[Process] = []
        """Workers that were told to end because there are to be fewer."""
        self._pause = 0.0
        self._has_served = False
        self.has_failed = False
        """Whether it has ended because a worker did, before any had begun to serve."""

    def handle_hup(self) -> None:
        """Stop, as at SIGTERM: the terminal is closed, of which a process may be told twice."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.handle_term()

    def init_processes(self) -> None:
        """Begin as many workers as there are to be."""
        self.processes = [self._begin() for _ in range(self.processes_num)]

    def handle_ttin(self) -> None:
        """Have one worker more."""
        self.processes_num += 1
        self.processes.append(self._begin())

    def handle_ttou(self) -> None:
        """Have one worker fewer, but keep the last. Its end is not waited for: it may hang."""
        if self.processes_num > 1:
            self.processes_num -= 1
            worker = self.processes.pop()
            del self._known[worker]
            worker.terminate()
            self._leaving.append(worker)

    def _begin(self) -> Process:
        worker = _Worker(self.config, self.sockets)
        worker.start()
        self._known[worker] = _Known(begun=time.monotonic())
        return worker

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended or hang."""
        self._leaving = [worker for worker in self._leaving if worker.process.is_alive()]
        for worker in self.processes:
            self._hear(worker, self._known[worker])
        for index, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            known = self._known[worker]
            if known.due == math.inf and not self._is_well(worker, known):
                self._end(worker, known)
            if known.due <= time.monotonic():
                del self._known[worker]
                self.processes[index] = self._begin()

    def _hear(self, worker: Process, known: _Known) -> None:
        """Note whether it says that it serves; do not wait for one that says nothing."""
        with suppress(OSError, EOFError):  # it has ended
            if not known.is_asked:
                worker.parent_conn.send(b"ping")
                known.is_asked = True
            if worker.parent_conn.poll(_SECONDS_TO_ANSWER):
                worker.parent_conn.recv()
                if known.heard is None:
                    log.info("worker_ready", pid=worker.pid)
                known.is_asked = False
                known.heard = time.monotonic()
                self._has_served = True

    def _is_well(self, worker: Process, known: _Known) -> bool:
        """Whether it serves, or may still begin to."""
        if known.heard is None:
            end = known.begun + _SECONDS_TO_BEGIN
        else:
            end = known.heard + self.config.timeout_worker_healthcheck
        return worker.process.is_alive() and time.monotonic() <= end

    def _end(self, worker: Process, known: _Known) -> None:
        """Note how it ended, or that it has to, and when the next one is to begin.

        That is at once, but for one that never served: the next one will fare no better soon. Where
        none has served at all, the service cannot start, and ends.
        """
        is_hung = worker.process.is_alive()
        worker.kill()
        worker.join()
        never_served = known.heard is None
        self._pause = min(max(1.0, 2 * self._pause), _LONGEST_PAUSE) if never_served else 0
        known.due = time.monotonic() + self._pause
        event = "worker_hung" if is_hung else "worker_ended"
        log.warning(
            event,
            pid=worker.pid,
            exit_code=worker.exitcode,
            next_in_s=self._pause,
            **({} if is_hung else _reason_of(worker.exitcode, never_served=never_served)),
        )
        if not self._has_served:
            self.has_failed = True
            self.should_exit.set()

    def join_all(self) -> None:
        """Wait for the workers; pass on a signal that comes meanwhile, until they have ended.

        Once would not do: to a worker that has not looked at the first one yet, two are one. Who
        takes too long, since it hangs, is killed.

        When the delay is over, turn new clients away, for all workers. These go on to accept for
        `SECONDS_TO_LEAVE`, and none does so itself, for it may be told to end alone.
        """
        end = time.monotonic() + self._delay
        last = end + (self.config.timeout_graceful_shutdown or 0) + _SECONDS_TO_END
        for worker in [*self.processes, *self._leaving]:
            while worker.process.is_alive():
                is_told_again = not _STOPPING.isdisjoint(self.signal_queue)
                if is_told_again:
                    self._tell_again()
                if is_told_again or time.monotonic() >= end:
                    self._leave()
                if time.monotonic() >= last:
                    log.warning("worker_killed", pid=worker.pid)
                    worker.process.kill()
                worker.process.join(_SECONDS_BETWEEN_SIGNALS)

    def _leave(self) -> None:
        """Have nobody connect whom no worker will ever serve."""
        while self.sockets:
            listener = self.sockets.pop()
            turn_away(listener)
            listener.close()

    def _tell_again(self) -> None:
        for worker in [*self.processes, *self._leaving]:
            if worker.process.is_alive() and worker.pid is not None:
                os.kill(worker.pid, signal.SIGTERM)


def _reason_of(exit_code: int | None, *, never_served: bool) -> dict[str, str]:
    """The signal that ended a worker, and what to look at, for its last line of log."""
    reason: dict[str, str] = {}
    if exit_code is not None and exit_code < 0:
        reason["signal"] = signal.Signals(-exit_code).name
    if exit_code == -signal.SIGBUS:
        folder = os.environ.get(FOLDER_VARIABLE, "none")
        reason["hint"] = f"A file that is mapped has no space. Folder of the metrics: {folder}"
    elif exit_code == -signal.SIGKILL:
        reason["hint"] = "Out of memory? The kernel's log, or the container's state, tells."
    elif never_served:
        reason["hint"] = "It never served. The lines above say why."
    return reason


def end_with_parent() -> None:
    """Have this worker stop, as at SIGTERM, when its parent is gone; it may have been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"  # noqa: S101

    def wait() -> None:
        parent.join()
        log.warning("worker_orphaned")
        remove_folder()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
