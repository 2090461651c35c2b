"""What the parent of the workers does where none of them can start."""

import signal
import socket

from uvicorn import Config
from uvicorn.supervisors.multiprocess import SIGNALS

from iris_api.supervisor import Supervisor


def test_workers_that_end_before_any_has_served_end_their_parent() -> None:
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
