"""Requests that are sent before the earlier ones are answered: each is, in its turn."""

import socket

from sqlalchemy import URL
from tests.e2e.conftest import SECONDS
from tests.e2e.rows import HeldUp, count_predictions
from tests.support.raw import GET, HEAD, connected, predict
from tests.support.service import Service


def test_pipelined_second_request_that_times_out_leaves_the_first_response_200(
    strict: Service, service_database: URL
) -> None:
    """What has been stored must not be answered with "nothing was done"."""
    with connected(strict) as raw, HeldUp(service_database, 1.5 * SECONDS):
        raw.send(predict(), b"POST /predict HTT")
        first = raw.answer()
        assert first.status == 200, first.body
        assert raw.rest()[:12] in {b"", b"HTTP/1.1 408"}


def test_pipelined_second_request_that_is_malformed_leaves_the_first_response_200(
    strict: Service, service_database: URL
) -> None:
    with connected(strict) as raw, HeldUp(service_database, SECONDS):
        raw.send(predict(), b"\x00\x00\r\n\r\n")
        first = raw.answer()
        assert first.status == 200, first.body
        assert raw.rest()[:12] in {b"", b"HTTP/1.1 400"}


def test_pipelined_second_request_with_a_malformed_body_is_400_after_the_first_response(
    strict: Service, service_database: URL
) -> None:
    """The answers keep their order, for the second one's would be taken for the first one's."""
    before = count_predictions(service_database)
    with connected(strict) as raw:
        raw.send(predict() + HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n")
        assert raw.answer().status == 200
        raw.refusal(400, "malformed-request")
    assert count_predictions(service_database) == before + 1


def test_docs_asset_before_a_malformed_chunk_is_sent_completely(strict: Service) -> None:
    """Whatever comes meanwhile: an answer within its content would be taken for that."""
    path = b"/docs/assets/swagger-ui-bundle.js"
    with connected(strict) as raw:
        raw.send(GET.replace(b"/livez", path))
        whole = raw.answer().body
        for _ in range(10):
            with connected(strict) as again:
                head = GET.replace(b"/livez", path)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
                again.send(head, b"1\r\na\r\n")
                assert again.connection.recv(15, socket.MSG_PEEK) == b"HTTP/1.1 200 OK"
                again.send(b"ZZ\r\n")
                assert again.answer().body == whole
                assert again.is_closed()
