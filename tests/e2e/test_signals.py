"""What each signal does: the first stops by degrees, the second at once."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from tests.e2e.stopping import (
    LONG,
    WORKERS,
    assert_ends,
    until_unready,
)
from tests.support.processes import send
from tests.support.service import Service, poll_until
from tests.support.service_processes import workers_of


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_serve_after_a_second_signal_stops_at_once(
    begin: Callable[..., Service], second: signal.Signals
) -> None:
    service = begin(shutdown_delay=10 * LONG)
    service.process.send_signal(signal.SIGTERM)
    until_unready(service)
    service.process.send_signal(second)
    assert_ends(service, 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_serve_with_workers_after_a_second_signal_stops_at_once(
    begin: Callable[..., Service], second: signal.Signals
) -> None:
    service = begin(workers=2, shutdown_delay=10 * LONG)
    *_, busy = workers_of(service)
    send(signal.SIGSTOP, [busy])  # so to it, the two signals are one
    service.process.send_signal(signal.SIGTERM)
    until_unready(service)
    service.process.send_signal(second)
    time.sleep(1)  # the supervisor passes it on ten times a second
    send(signal.SIGCONT, [busy])
    began = time.monotonic()
    poll_until(
        lambda: service.process.poll() is not None or time.monotonic() - began > LONG / 3,
        "it has ended, or will not",
    )
    code = service.process.poll()
    if code is None:
        os.killpg(service.process.pid, signal.SIGKILL)
        service.wait()
    assert code == 0
    service.leaves_nothing()


@WORKERS
def test_serve_at_ctrl_c_to_the_process_group_stops_at_once(
    begin: Callable[..., Service], workers: int
) -> None:
    """Ctrl-C goes to all processes of the group."""
    service = begin(workers=workers, shutdown_delay=10 * LONG)
    os.killpg(service.process.pid, signal.SIGINT)
    assert_ends(service, 0)


@WORKERS
@pytest.mark.parametrize("delay", [0, 3])
def test_serve_at_sighup_to_the_process_group_stops_after_the_shutdown_delay(
    begin: Callable[..., Service], workers: int, delay: int
) -> None:
    """SIGHUP goes to all processes of the group, and again, from the shell, to the first."""
    service = begin(workers=workers, shutdown_delay=delay)
    os.killpg(service.process.pid, signal.SIGHUP)
    service.process.send_signal(signal.SIGHUP)
    if delay:
        until_unready(service)
    assert_ends(service, delay)


def test_serve_with_nohup_ignores_sighup(begin_interpreter: Callable[..., Service]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as the service inherits it
    try:
        service = begin_interpreter(workers=2)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.killpg(service.process.pid, signal.SIGHUP)
    time.sleep(2)
    assert service.answers()
    assert service.stop() == 0


@WORKERS
def test_serve_at_sigint_to_its_first_process_alone_stops_all_processes(
    begin: Callable[..., Service], workers: int
) -> None:
    service = begin(workers=workers, shutdown_delay=1)
    service.process.send_signal(signal.SIGINT)
    assert_ends(service, 1)
