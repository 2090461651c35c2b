"""The parent of several workers: replaces those that end or hang, and ends after all of them."""

import os
import signal
import socket
from contextlib import suppress
from types import FrameType

import structlog
from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from iris_api import signals

_KILL_SECONDS = 2.5  # beyond delay and timeout; containers get 3 (docs/promises.md)
_HINTS = {  # by exit code
    -signal.SIGKILL: "It did not answer the supervisor, or memory ran out: see the kernel's log.",
    -signal.SIGBUS: "A mapped file has no space: see the folder iris-metrics-* in TMPDIR.",
    STARTUP_FAILURE: "It never served, so the service stops. The lines above say why.",
}
log = structlog.get_logger("iris_api")


class Supervisor(Multiprocess):
    """uvicorn's supervisor, whose workers stop in time although one hangs.

    ``delay_seconds``: how long the workers serve after SIGINT, SIGTERM or SIGHUP.
    """

    def __init__(self, config: Config, sockets: list[socket.socket], delay_seconds: float) -> None:
        ignores_sighup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as under nohup
        super().__init__(config, sockets)
        self._told: set[Process] = set()
        self._grace = delay_seconds + (config.timeout_graceful_shutdown or 0) + _KILL_SECONDS
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        if ignores_sighup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTTIN, signal.SIGTTOU):  # the settings say how many workers run
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: self._send(signal.SIGKILL))

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        """Tell the workers at once: uvicorn's loop may be waiting for one that hangs."""
        signals.note(number)
        self.signal_queue.append(signal.SIGTERM)
        # They take a second SIGTERM for an echo of the first; SIGINT ends their delay.
        self._send(signal.SIGINT if self._told else signal.SIGTERM)

    def _send(self, number: int) -> None:
        self._told.update(self.processes)
        for pid in [worker.pid for worker in self.processes if worker.pid is not None]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        signal.setitimer(signal.ITIMER_REAL, self._grace)

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have ended or hang, and log why."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        for worker in before:
            if (code := worker.exitcode) is not None:
                hint = _HINTS.get(code, "The lines above say why.")
                log.warning("worker_ended", pid=worker.pid, exit_code=code, hint=hint)

    def terminate_all(self) -> None:
        """Tell all workers to stop, unless they know: a second signal would end the delay."""
        if not self._told.issuperset(self.processes):
            self._send(signal.SIGTERM)
        for listener in self.sockets:  # the workers have copies
            listener.close()

    def join_all(self) -> None:
        """Wait until the workers have ended; the alarm kills those that take too long."""
        super().join_all()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for worker in self.processes:
            if worker.exitcode == -signal.SIGKILL:
                log.warning("worker_killed", pid=worker.pid)
