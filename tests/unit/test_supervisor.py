"""The parent of the workers: when it notes signals, and what it does where none of them starts."""

import signal
import socket
import time

from uvicorn import Config
from uvicorn.supervisors.multiprocess import SIGNALS

from iris_api.server.supervisor import Supervisor, _Exit


def test_supervisor_run_with_workers_exiting_at_start_ends_and_has_failed() -> None:
    """Each would fail as the first one did."""
    config = Config("nowhere:application", workers=2, log_config=None)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = Supervisor(config, [listener], delay=0)
            supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert supervisor.has_failed
    assert not any(worker.process.is_alive() for worker in supervisor.processes)


def test_supervisor_exit_wait_with_a_noted_signal_returns_before_its_timeout() -> None:
    signals: list[int] = []
    leave = _Exit(signals)
    assert not leave.wait(0.01)
    signals.append(signal.SIGTERM)
    began = time.monotonic()
    assert not leave.wait(600)
    leave.set()
    assert leave.wait()
    signals.clear()
    assert leave.wait()
    assert time.monotonic() - began < 300
