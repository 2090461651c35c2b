"""How the service stops: what it still does, and for whom."""

import signal
import time
from collections.abc import Callable

from sqlalchemy import URL
from tests.e2e.stopping import (
    LONG,
    WORKERS,
    ask,
    assert_ends,
    assert_stops_now,
    is_unready,
    until_unready,
)
from tests.support.application import fetch
from tests.support.raw import BODY, GET, HEAD, Raw, connected, predict
from tests.support.service import Service, poll_until


def stall(raw: Raw) -> None:
    """Begin a request that will never end."""
    raw.send(HEAD, b"Content-Length: 100\r\n\r\n{")


def test_serve_at_sigterm_is_not_ready_and_serves_during_the_shutdown_delay(
    begin: Callable[..., Service], database: URL
) -> None:
    service = begin(shutdown_delay=10 * LONG)
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
    assert_stops_now(service)
    assert fetch(database, "SELECT count(*) FROM iris_predictions") == [(2,)]


def test_serve_at_sigterm_without_a_shutdown_delay_stops_at_once(
    begin: Callable[..., Service],
) -> None:
    service = begin(shutdown_delay=0)
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 0)


@WORKERS
def test_serve_at_sigterm_with_stalled_clients_stops_in_time(
    begin: Callable[..., Service], workers: int
) -> None:
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
def test_request_accepted_before_sigterm_gets_its_response(
    begin: Callable[..., Service], workers: int
) -> None:
    service = begin(
        workers=workers,
        shutdown_delay=0.2,
        shutdown_timeout=LONG,
        body_timeout=10 * LONG,
        request_timeout=10 * LONG,
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


def is_answering(service: Service) -> bool:
    """Whether anybody takes a new connection."""
    try:
        ask(service, "GET", "/livez")
    except OSError:
        return False
    return True


def test_serve_with_workers_at_sigterm_sends_connection_close_from_all_workers(
    begin: Callable[..., Service],
) -> None:
    """Those to whom nobody has spoken before the signal, as well."""
    service = begin(workers=3, shutdown_delay=10)
    service.process.send_signal(signal.SIGTERM)
    until_unready(service)
    poll_until(lambda: all(is_unready(service) for _ in range(16)), "no worker is ready any more")
    for _ in range(50):
        assert ask(service, "GET", "/livez").getheader("Connection") == "close"
    assert_ends(service, 10)
