"""Clients who ask and do not read what they are told."""

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.support.raw import GET, Raw, connected
from tests.support.service import Service, poll_until, serving

SECONDS = 1.0
"""What the service waits for a reader."""
ASSET = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def impatient(database: URL, data_dir: Path, tmp_path: Path) -> Iterator[Service]:
    folder = tmp_path / "impatient"
    folder.mkdir()
    with serving(folder, database, data_dir=data_dir, request_timeout=SECONDS) as service:
        yield service


@contextmanager
def reluctant(service: Service) -> Iterator[Raw]:
    """A connection whose client has room for little."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.connect(("127.0.0.1", service.port))
        yield Raw(connection)


def is_established(service: Service, raw: Raw) -> bool:
    """Whether the service still has its end of this connection open."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("the state of a connection is read from /proc")
    ports = (service.port, raw.connection.getsockname()[1])
    pattern = r":{:04X} [0-9A-F]+:{:04X} 01 ".format(*ports)
    return re.search(pattern, table.read_text()) is not None


def get(path: str) -> bytes:
    return GET.replace(b"/livez", path.encode())


def ask_and_do_not_read(raw: Raw, request: bytes) -> None:
    """Send the request more often than there is room for the answers, or until nobody reads it."""
    raw.connection.settimeout(0.5)
    with suppress(TimeoutError):
        for _ in range(600):
            raw.send(request * 100)


@pytest.mark.parametrize("path", ["/openapi.json", "/livez", "/nowhere"])
def test_connection_with_unread_responses_is_closed_after_the_request_timeout(
    impatient: Service, path: str
) -> None:
    with reluctant(impatient) as raw:
        ask_and_do_not_read(raw, get(path))
        poll_until(lambda: not is_established(impatient, raw), "the connection is ended")
    assert "Traceback" not in impatient.errors
    assert "exception" not in impatient.errors, impatient.errors[-3000:]


def test_connection_that_reads_slowly_gets_all_responses(
    database: URL, data_dir: Path, folder: Path
) -> None:
    """For longer than an answer may take: what counts is that something is read."""
    allowed = 4
    began = time.monotonic()
    with (
        serving(folder, database, data_dir=data_dir, request_timeout=allowed) as service,
        reluctant(service) as raw,
    ):
        count = 8  # of 1.7 MB each: far more than the system's buffers take
        raw.send(ASSET * count)
        for _ in range(count):
            assert raw.answer(pause=0.02).status == 200
    assert time.monotonic() - began > allowed


def test_serve_with_an_unread_response_stops_at_the_second_sigint(
    database: URL, data_dir: Path, folder: Path
) -> None:
    with (
        serving(folder, database, data_dir=data_dir, request_timeout=600) as service,
        reluctant(service) as raw,
    ):
        ask_and_do_not_read(raw, get("/openapi.json"))
        service.process.send_signal(signal.SIGINT)
        poll_until(lambda: not takes_connections(service), "it stops")
        service.process.send_signal(signal.SIGINT)
        assert service.wait() == 0


def takes_connections(service: Service) -> bool:
    with suppress(ConnectionError), connected(service):
        return True
    return False
