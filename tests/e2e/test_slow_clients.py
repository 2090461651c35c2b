"""Clients who are slow, send too much, or do not speak HTTP, and a patient one meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import MEGABYTE, MOST_HEADER_BYTES
from tests.e2e.rows import count_predictions
from tests.support.raw import BODY, GET, HEAD, Raw, connected
from tests.support.service import Service


@pytest.fixture
def raw(strict: Service) -> Iterator[Raw]:
    with connected(strict) as raw:
        yield raw


def trickle(raw: Raw, data: bytes) -> Callable[[], None]:
    """Send data byte by byte, in a thread, until it is sent or refused; return how to wait."""

    def send() -> None:
        try:
            for number in range(len(data)):
                raw.send(data[number : number + 1])
                time.sleep(0.1)
        except OSError:
            return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread.join


def test_connection_with_a_stalled_head_is_408(raw: Raw) -> None:
    raw.send(b"POST /predict HTTP/1.1\r\nHost: ir")
    assert "1 s" in raw.refusal(408, "request-timeout")["detail"]


def test_connection_with_a_trickled_head_is_408(raw: Raw) -> None:
    wait = trickle(raw, HEAD * 10)
    raw.refusal(408, "request-timeout")
    wait()


@pytest.mark.parametrize(
    "body", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"]
)
def test_connection_with_a_stalled_body_is_408(
    raw: Raw, service_database: URL, body: bytes
) -> None:
    before = count_predictions(service_database)
    raw.send(HEAD, body)
    raw.refusal(408, "request-timeout")
    assert count_predictions(service_database) == before


def test_connection_with_a_trickled_body_is_200(raw: Raw, service_database: URL) -> None:
    """It takes longer than a body may stall for, but goes on."""
    before = count_predictions(service_database)
    raw.send(HEAD, b"Content-Length: %d\r\n\r\n" % len(BODY))
    wait = trickle(raw, BODY)
    wait()
    assert raw.answer().status == 200
    assert count_predictions(service_database) == before + 1


def test_connection_without_a_request_is_closed_without_a_response(raw: Raw) -> None:
    assert raw.is_closed()


def test_connection_with_only_blank_lines_is_closed_without_a_response(raw: Raw) -> None:
    wait = trickle(raw, b"\r\n" * 100)
    assert raw.is_closed()
    wait()


def test_connection_idle_after_a_request_is_closed_without_a_response(raw: Raw) -> None:
    raw.send(GET)
    assert raw.answer().status == 200
    assert raw.is_closed()


def test_connection_with_a_stalled_second_head_is_408(raw: Raw) -> None:
    raw.send(GET)
    assert raw.answer().status == 200
    raw.send(GET[:10])
    raw.refusal(408, "request-timeout")


def test_connection_with_blank_lines_after_a_request_is_closed(strict: Service) -> None:
    with connected(strict, patience=10) as raw:
        raw.send(GET)
        assert raw.answer().status == 200
        raw.send(b"\r\n")
        assert raw.is_closed()


def test_connection_with_a_body_that_continues_after_its_413_is_closed(strict: Service) -> None:
    with connected(strict, patience=10) as raw:
        raw.send(HEAD, b"Content-Length: %d\r\n\r\n" % (2 * MEGABYTE))
        assert raw.answer().status == 413
        raw.send(b"{")
        assert raw.is_closed()


def test_request_head_that_is_too_large_is_431(raw: Raw) -> None:
    raw.send(GET[:-2], b"X: " + b"x" * 2 * MOST_HEADER_BYTES)
    assert str(MOST_HEADER_BYTES) in raw.refusal(431, "headers-too-large")["detail"]


def test_request_head_that_grows_too_large_is_431(raw: Raw) -> None:
    raw.send(GET[:-2])
    with pytest.raises(OSError):  # noqa: PT011, PT012, the server has closed it at some turn
        for number in range(1_000_000):
            raw.send(b"X-%d: 0\r\n" % number)
    assert raw.answer().status == 431


def test_request_head_just_below_the_limit_is_200(raw: Raw) -> None:
    raw.send(GET[:-2], b"X: " + b"x" * (MOST_HEADER_BYTES - 100) + b"\r\n\r\n")
    assert raw.answer().status == 200


NOT_HTTP = {
    "binary": b"\x00\xff\x00\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": b"hello, is anybody there?\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost iris\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a length that is none": HEAD + b"Content-Length: x\r\n\r\n",
    "a chunk that is none": HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_connection_with_malformed_http_is_400_and_closed(raw: Raw, data: bytes) -> None:
    raw.send(data)
    detail = raw.refusal(400, "malformed-request")["detail"]
    assert "HTTP/1.1" in detail
    assert "Content-Length" in detail


def resident_bytes(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_body_of_100_mb_is_413_and_takes_no_memory(strict: Service, raw: Raw) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with connected(strict) as first:  # what the first body costs for good does not count
        first.send(HEAD, b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 20)
        assert first.answer().status == 413
    before = resident_bytes(strict)
    most = before
    raw.send(HEAD, b"Transfer-Encoding: chunked\r\n\r\n")
    for number in range(100 * MEGABYTE // 65536):
        raw.send(chunk)
        if number % 100 == 0:
            most = max(most, resident_bytes(strict))
    raw.send(b"0\r\n\r\n")
    answer = raw.answer()
    assert answer.status == 413
    assert str(MEGABYTE) in answer.problem("body-too-large")["detail"]
    assert max(most, resident_bytes(strict)) - before < 10 * MEGABYTE
    raw.send(GET)
    assert raw.answer().status == 200


def test_predict_beside_200_stalled_connections_is_200(strict: Service) -> None:
    patient = HTTPConnection("127.0.0.1", strict.port, timeout=30)
    with ExitStack() as stack:
        stack.callback(patient.close)
        slow = [stack.enter_context(connected(strict)) for _ in range(200)]
        for number, raw in enumerate(slow):
            raw.send([GET[:5], HEAD, HEAD + b"Content-Length: 9\r\n\r\n{"][number % 3])
        for _ in range(20):
            patient.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
            response = patient.getresponse()
            assert response.status == 200
            response.read()
        for raw in slow:
            raw.refusal(408, "request-timeout")


def test_connection_beyond_max_connections_is_503_until_another_closes(
    start: Callable[..., Service], database: URL, data_dir: Path
) -> None:
    service = start(
        **way_to(database),
        data_dir=data_dir,
        max_connections=3,
        header_timeout=60,
    ).until_ready()
    with ExitStack() as stack:
        taken = [take(service, stack) for _ in range(3)]
        with connected(service) as refused:
            problem = refused.refusal(503, "overloaded")
            assert "3 connections" in problem["detail"]
            assert problem["title"] == "Overloaded"
        for raw in taken:
            raw.send(GET)
            assert raw.answer().status == 200
        taken[0].connection.close()
        raw = take(service, stack)
        raw.send(GET.replace(b"/livez", b"/metrics"))
        assert b'iris_connections_refused_total{reason="overloaded"}' in raw.answer().body


def take(service: Service, stack: ExitStack) -> Raw:
    """A connection that the service has accepted, as soon as it has noticed that others left."""
    deadline = time.monotonic() + 30
    while True:
        raw = stack.enter_context(connected(service))
        raw.send(GET)
        if raw.answer().status == 200:
            return raw
        raw.connection.close()
        assert time.monotonic() < deadline, "there is no room although others left"
