"""How the service stops: by degrees at SIGTERM, at once when it is told again."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from itertools import count
from pathlib import Path
from urllib.request import urlopen

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.e2e.raw import BODY, GET, HEAD, Raw, connected, predict
from tests.e2e.service import Service, poll_until
from tests.faults.processes import send
from tests.faults.services import workers_of
from tests.integration.support import fetch

LONG = 60
"""Seconds that no test here waits for: what takes them has failed."""
WORKERS = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def begin(start: Start, database: URL, data_dir: Path) -> Callable[..., Service]:
    """Starts a service with all its parts and these settings, and waits until it is ready."""

    def begin(**settings: object) -> Service:
        service = start(**way_to(database), data_dir=data_dir, **settings).until_ready()
        limit = 8 * int(str(settings.get("workers", 1)))
        poll_until(lambda: connections_limit(service) == limit, "all workers have begun")
        return service

    return begin


def connections_limit(service: Service) -> float:
    """The connections that all workers together may have, which each adds to when it begins."""
    with urlopen(f"{service.url}/metrics") as response:  # noqa: S310, the test.s own server
        text = response.read().decode()
    [value] = re.findall(r"^iris_database_connections_limit (\S+)$", text, re.MULTILINE)
    return float(value)


def ask(service: Service, method: str, path: str, *, patience: float = 30) -> HTTPResponse:
    """Ask over a connection of its own; the answer is read already, for its status and headers."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=patience)
    try:
        body = BODY if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def is_unready(service: Service) -> bool:
    return ask(service, "GET", "/readyz").status == 503


def until_unready(service: Service) -> None:
    """Return when the service has taken note of its signal."""
    poll_until(lambda: is_unready(service), "the service is not ready")


def stall(raw: Raw) -> None:
    """Begin a request that will never end."""
    raw.send(HEAD, b"Content-Length: 100\r\n\r\n{")


def assert_ends(service: Service, seconds: float) -> None:
    """The service ends, as it is told to, within so many seconds and what a slow machine takes."""
    began = time.monotonic()
    assert service.wait() == 0
    assert time.monotonic() - began < seconds + LONG / 3
    service.leaves_nothing()
    assert "Traceback" not in service.errors


def test_at_sigterm_it_is_not_ready_but_serves_on_for_a_while(
    begin: Callable[..., Service], database: URL
) -> None:
    service = begin(shutdown_delay=3)
    with connected(service) as kept:
        kept.send(GET)
        assert "connection" not in kept.answer().headers
        service.process.send_signal(signal.SIGTERM)
        until_unready(service)
        status, body = service.get("/readyz")
        assert (status, body["type"]) == (503, "urn:iris-api:problem:not-ready")
        assert "stopping" in body["detail"]
        assert body["checks"] == {}
        kept.send(predict())
        answer = kept.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert kept.is_closed()
    for method, path in [("GET", "/livez"), ("POST", "/predict"), ("GET", "/predictions")]:
        response = ask(service, method, path)
        assert response.status == 200
        assert response.getheader("Connection") == "close"
    assert_ends(service, 3)
    assert fetch(database, "SELECT count(*) FROM iris_predictions") == [(2,)]


def test_without_a_delay_it_stops_at_once(begin: Callable[..., Service]) -> None:
    service = begin(shutdown_delay=0)
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 0)


@WORKERS
def test_a_client_that_stalls_does_not_keep_it(begin: Callable[..., Service], workers: int) -> None:
    service = begin(
        workers=workers,
        shutdown_delay=0.5,
        shutdown_timeout=1,
        header_timeout=10 * LONG,
        body_timeout=10 * LONG,
        request_timeout=10 * LONG,
    )
    with connected(service) as stalled, connected(service) as silent, connected(service) as half:
        stall(stalled)
        half.send(GET[:10])
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert service.wait() == 0
        assert time.monotonic() - began < LONG / 3
        assert silent.is_closed()
    service.leaves_nothing()


@WORKERS
def test_a_request_that_was_accepted_is_answered_before_the_end(
    begin: Callable[..., Service], workers: int
) -> None:
    service = begin(
        workers=workers, shutdown_delay=0.2, shutdown_timeout=LONG, body_timeout=10 * LONG
    )
    with connected(service) as slow:
        slow.send(HEAD, b"Content-Length: %d\r\n\r\n" % len(BODY), BODY[:10])
        poll_until(lambda: ask(service, "GET", "/livez").status == 200, "it has read the head")
        service.process.send_signal(signal.SIGTERM)
        poll_until(lambda: not is_answering(service), "it takes no more connections")
        slow.send(BODY[10:])
        assert slow.answer().status == 200
        assert slow.is_closed()
    assert_ends(service, 0)


@WORKERS
def test_who_has_connected_is_served_though_nobody_has_accepted_it_yet(
    begin: Callable[..., Service], workers: int
) -> None:
    """Each asks over a connection of its own, one after the other, until nobody takes one."""
    service = begin(workers=workers, shutdown_delay=0.5)
    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(count_answers, service) for _ in range(8)]
        ask(service, "GET", "/livez")
        service.process.send_signal(signal.SIGTERM)
        assert all(client.result() > 10 for client in clients)
    assert_ends(service, 0)


def count_answers(service: Service) -> int:
    """Connect and ask until it is refused; whoever has connected is answered."""
    for number in count():
        try:
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        except OSError:
            return number
        with connection:
            raw = Raw(connection)
            raw.send(GET)
            assert raw.answer().status == 200
    raise AssertionError("unreachable")


def is_answering(service: Service) -> bool:
    """Whether anybody takes a new connection."""
    try:
        ask(service, "GET", "/livez")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_delay(
    begin: Callable[..., Service], second: signal.Signals
) -> None:
    service = begin(shutdown_delay=10 * LONG)
    service.process.send_signal(signal.SIGTERM)
    until_unready(service)
    service.process.send_signal(second)
    assert_ends(service, 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_delay_of_all_workers(
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
def test_the_keys_of_a_terminal_stop_it_at_once(
    begin: Callable[..., Service], workers: int
) -> None:
    """Ctrl-C goes to all processes of the group."""
    service = begin(workers=workers, shutdown_delay=10 * LONG)
    os.killpg(service.process.pid, signal.SIGINT)
    assert_ends(service, 0)


@WORKERS
def test_sigint_to_the_service_alone_stops_it_by_its_end(
    begin: Callable[..., Service], workers: int
) -> None:
    service = begin(workers=workers, shutdown_delay=1)
    service.process.send_signal(signal.SIGINT)
    assert_ends(service, 1)


def test_all_workers_tell_their_clients_to_go_elsewhere(begin: Callable[..., Service]) -> None:
    """Those to whom nobody has spoken before the signal, as well."""
    service = begin(workers=3, shutdown_delay=5)
    service.process.send_signal(signal.SIGTERM)
    until_unready(service)
    poll_until(lambda: all(is_unready(service) for _ in range(16)), "no worker is ready any more")
    for _ in range(50):
        assert ask(service, "GET", "/livez").getheader("Connection") == "close"
    assert_ends(service, 5)
