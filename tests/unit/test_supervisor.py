"""The parent of the workers, if none of them starts."""

import signal
import socket

from uvicorn import Config
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import SIGNALS

from iris_api.server.supervisor import Supervisor


def test_supervisor_run_with_workers_exiting_at_start_ends_with_their_exit_code() -> None:
    """Each would fail as the first one did."""
    config = Config("nowhere:application", workers=2, log_config=None)
    before = {number: signal.getsignal(number) for number in [*SIGNALS, signal.SIGALRM]}
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervisor = Supervisor(config, [listener], delay_seconds=0)
            supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert STARTUP_FAILURE in {worker.exitcode for worker in supervisor.processes}
    assert not any(worker.process.is_alive() for worker in supervisor.processes)
