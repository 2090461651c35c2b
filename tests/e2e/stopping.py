"""A service that is told to stop, and does."""

import signal
import time
from http.client import HTTPConnection, HTTPResponse

import pytest
from tests.support.raw import BODY
from tests.support.service import Service, poll_until

LONG = 60
"""Seconds that no test here waits for: what takes them has failed."""
WORKERS = pytest.mark.parametrize("workers", [1, 2])


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


def assert_ends(service: Service, seconds: float) -> None:
    """The service ends, as it is told to, within so many seconds and what a slow machine takes."""
    began = time.monotonic()
    assert service.wait() == 0
    assert time.monotonic() - began < seconds + LONG / 3
    service.leaves_nothing()
    assert "Traceback" not in service.errors


def assert_stops_now(service: Service) -> None:
    """The service, which was told to stop, ends at the second signal, though its delay is long."""
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 0)
