"""What a request's head has to say, and what becomes of those that say something else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from tests.support.application import fetch
from tests.support.log_lines import line_of
from tests.support.raw import BODY, GET, HEAD, Raw, connected, predict
from tests.support.service import Service, serving

LIVEZ = b"GET /livez HTTP/1.1\r\n"
ID = re.compile("[0-9a-f]{32}")


@pytest.fixture
def raw(service: Service) -> Iterator[Raw]:
    with connected(service) as raw:
        yield raw


@pytest.fixture(scope="module")
def open_to_all(
    service_database: URL, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open")
    with serving(folder, service_database, data_dir=trained_model, auth="off") as service:
        yield service


def refusal(service: Service, raw: Raw, status: int, slug: str) -> dict[str, Any]:
    """The next answer, which is this problem, under an id that is in the log as well; the last."""
    body = raw.refusal(status, slug)
    assert line_of(service, body["request_id"])["status"] == status
    return body


@pytest.mark.parametrize("data", [b"\0\xff\r\n\r\n", b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n"])
def test_request_head_that_is_malformed_is_400_with_a_logged_request_id(
    service: Service, raw: Raw, data: bytes
) -> None:
    raw.send(data)
    assert ID.fullmatch(refusal(service, raw, 400, "malformed-request")["request_id"])


@pytest.mark.parametrize(
    "host", [b"", b"Host: localhost\r\nHost: localhost\r\n", b"Host: a b\r\n", b"Host: a/b\r\n"]
)
def test_request_head_without_exactly_one_valid_host_is_400(
    service: Service, raw: Raw, host: bytes
) -> None:
    raw.send(LIVEZ, host, b"\r\n")
    assert "Host" in refusal(service, raw, 400, "malformed-request")["detail"]


@pytest.mark.parametrize("line", [b"GET /livez", b"GET /livez HTTP/0.9", b"GET /livez HTTP/2.0"])
def test_request_head_with_another_http_version_is_400(
    service: Service, raw: Raw, line: bytes
) -> None:
    raw.send(line, b"\r\nHost: localhost\r\n\r\n")
    assert "HTTP/1.1" in refusal(service, raw, 400, "malformed-request")["detail"]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"chunked, chunked"])
def test_request_head_with_another_transfer_encoding_than_chunked_is_400(
    raw: Raw, coding: bytes
) -> None:
    raw.send(HEAD, b"Transfer-Encoding: ", coding, b"\r\n\r\n0\r\n\r\n")
    raw.refusal(400, "malformed-request")


def test_request_head_of_http_1_0_without_host_is_200(raw: Raw) -> None:
    raw.send(b"GET /livez HTTP/1.0\r\n\r\n")
    assert raw.answer().status == 200
    assert raw.is_closed()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://localhost/livez", 200),
        (b"HTTP://localhost:80/livez?a=b", 200),
        (b"http://localhost/", 307),
        (b"http://localhost/nowhere", 404),
        (b"*", 404),
    ],
)
def test_request_head_with_an_absolute_target_is_routed_by_its_path(
    raw: Raw, target: bytes, status: int
) -> None:
    raw.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
    assert raw.answer().status == status
    raw.send(GET)
    assert raw.answer().status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(b"localhost", b"LOCALHOST:8000", b"localhost:", b"127.0.0.1", b"127.1.2.3:80"),
        *(b"[::1]", b"[::1]:8000"),
    ],
)
def test_request_head_with_any_loopback_host_is_200(
    service: Service, raw: Raw, host: bytes
) -> None:
    raw.send(LIVEZ, b"Host: %s\r\n\r\n" % host)
    assert raw.answer().status == 200


STRANGE = [b"attacker.example", b"attacker.example:8000", b"localhost.attacker.example", b""]
STRANGE += [b"10.0.0.1", b"0.0.0.0", b"[::2]:8000", b"[127.0.0.1.attacker]"]


@pytest.mark.parametrize("host", STRANGE)
def test_request_head_with_a_host_that_is_not_allowed_is_refused_and_stores_nothing(
    service: Service, raw: Raw, host: bytes, service_database: URL
) -> None:
    """A page of a browser on this machine could come from there, and read."""
    count = "SELECT count(*) FROM iris_predictions"
    before = fetch(service_database, count)
    raw.send(predict().replace(b"Host: localhost", b"Host: " + host))
    status, slug = (400, "malformed-request") if b"attacker]" in host else (421, "misdirected")
    detail = refusal(service, raw, status, slug)["detail"]
    assert ("IRIS_AUTH" in detail) == (status == 421)
    assert "attacker" not in detail
    assert fetch(service_database, count) == before


@pytest.mark.parametrize("host", [b"iris.example", b"", b"10.0.0.1:80"])
def test_request_head_with_any_host_and_auth_off_is_200(open_to_all: Service, host: bytes) -> None:
    with connected(open_to_all) as raw:
        raw.send(LIVEZ, b"Host: %s\r\n\r\n" % host)
        assert raw.answer().status == 200
        raw.send(LIVEZ, b"\r\n")
        refusal(open_to_all, raw, 400, "malformed-request")


EXPECTING = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"Content-Length: 5000000\r\n", 413),
        (HEAD.replace(b"/json", b"/xml") + b"Content-Length: 10\r\n", 415),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n", 200),
    ],
)
def test_expect_100_continue_with_an_immediate_response_closes_the_connection(
    service: Service, head: bytes, status: int
) -> None:
    """Nobody knows whether the body will come, or the next request."""
    with connected(service) as raw:
        raw.send(head, EXPECTING, b"\r\n")
        answer = raw.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert raw.is_closed()


def test_expect_100_continue_with_a_100_reads_the_body_and_closes_the_connection(raw: Raw) -> None:
    raw.send(HEAD, EXPECTING, b"Content-Length: %d\r\n\r\n" % len(BODY))
    assert raw.line() == b"HTTP/1.1 100 Continue"
    raw.send(BODY)
    answer = raw.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert raw.is_closed()


def test_response_to_any_request_has_x_content_type_options_nosniff(
    service: Service, raw: Raw
) -> None:
    for request in [
        GET,
        predict(),
        predict(b"{}"),
        *(GET.replace(b"/livez", path) for path in (b"/docs", b"/metrics", b"/nowhere")),
        GET.replace(b"/livez", b"/docs/assets/swagger-ui.css"),
        b"\0\0",
    ]:
        raw.send(request)
        assert raw.answer().headers["x-content-type-options"] == "nosniff"
