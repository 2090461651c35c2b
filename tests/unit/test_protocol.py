"""What one connection may send, and how its requests are answered in their turns."""

import asyncio
import json

import pytest
from tests.unit.connection import Connection

from iris_api.settings import Settings
from iris_api.web.limits import REFUSAL

MOST_HEADER_BYTES = 4096
GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def connection() -> Connection:
    return Connection(Settings(max_header_bytes=MOST_HEADER_BYTES))


def slug_of(body: str) -> str:
    kind: str = json.loads(body)["type"]
    return kind.rpartition(":")[2]


async def test_protocol_with_8000_pipelined_requests_answers_the_first_100_and_closes(
    connection: Connection,
) -> None:
    connection.app.goes_on.clear()
    connection.send(b"".join(GET % number for number in range(8000)))
    assert len(connection.protocol.pipeline) == 100
    assert connection.transport.is_paused
    connection.app.goes_on.set()
    assert await connection.answers(101) == [(200, f"/{number}") for number in range(101)]
    assert connection.transport.is_closed


async def test_protocol_with_100_pipelined_requests_answers_all_and_stays_open(
    connection: Connection,
) -> None:
    connection.send(b"".join(GET % number for number in range(100)))
    assert await connection.answers(100) == [(200, f"/{number}") for number in range(100)]
    assert not connection.transport.is_paused
    connection.send(GET % 100)
    assert (await connection.answers(101))[-1] == (200, "/100")


@pytest.mark.parametrize("size", [1, 7, 100, 1500, 5000])
async def test_protocol_with_pieces_of_any_size_reads_the_same_requests(
    connection: Connection, size: int
) -> None:
    body = b"a\r\n\r\nb" * 300
    request = POST % 1 + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"%x;a=b\r\n%s\r\n" % (len(body), body)
    sent = request * 3 + CHUNKED % 2 + chunks * 2 + b"0\r\nX: y\r\n\r\n" + GET % 3
    for begin in range(0, len(sent), size):
        await connection.until(lambda: not connection.transport.is_paused)
        connection.send(sent[begin : begin + size])
    answers = await connection.answers(5)
    assert answers == [(200, "/1")] * 3 + [(200, "/2"), (200, "/3")]
    assert connection.app.bodies == [body] * 3 + [body * 2, b""]


UPGRADE = b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\n"


async def test_protocol_with_an_upgrade_request_answers_in_http_1_1_and_closes(
    connection: Connection,
) -> None:
    connection.send(GET[:-2] % 1 + UPGRADE + b"\r\n")
    assert await connection.answers(1) == [(200, "/1")]
    assert connection.transport.is_closed


async def test_protocol_with_an_upgrade_request_with_a_body_is_400(connection: Connection) -> None:
    connection.send(POST % 1 + UPGRADE + b"Content-Length: 4\r\n\r\n", b"body")
    assert await connection.answers(1) == [(400, "/1")]
    assert "Upgrade" in connection.app.scopes[0][REFUSAL].detail
    assert connection.transport.is_closed


@pytest.mark.parametrize("method", [b"CONNECT a:1", b"PRI *"])
async def test_protocol_with_a_request_for_another_protocol_is_400(
    connection: Connection, method: bytes
) -> None:
    connection.send(method + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    [(status, body)] = await connection.answers(1)
    assert (status, slug_of(body)) == (400, "malformed-request")
    assert connection.transport.is_closed


@pytest.mark.parametrize("is_answered", [False, True])
async def test_protocol_with_the_sending_side_closed_answers_what_has_come(
    connection: Connection, *, is_answered: bool
) -> None:
    connection.app.goes_on.clear()
    connection.send(GET % 1)
    if is_answered:
        connection.app.goes_on.set()
        await connection.answers(1)
    assert connection.protocol.eof_received() is not is_answered
    connection.app.goes_on.set()
    assert await connection.answers(1) == [(200, "/1")]
    assert connection.transport.is_closed is not is_answered


async def test_protocol_with_the_sending_side_closed_within_a_body_closes(
    connection: Connection,
) -> None:
    connection.send(CHUNKED % 1, b"1\r\na\r\n")
    assert not connection.protocol.eof_received()


async def test_protocol_with_trailers_keeps_them_out_of_the_headers(connection: Connection) -> None:
    connection.send(CHUNKED % 1, b"1\r\na\r\n0\r\nAuthorization: Bearer x\r\nHost: b\r\n\r\n")
    connection.send(GET % 2)
    assert await connection.answers(2) == [(200, "/1"), (200, "/2")]
    names = [[name for name, _ in scope["headers"]] for scope in connection.app.scopes]
    assert names == [[b"host", b"transfer-encoding"], [b"host"]]


ENDLESS = {
    "trailers": (b"0\r\n", b"x: y\r\n"),
    "one trailer": (b"0\r\nx: ", b"y" * 64),
    "the extension of a chunk": (b"1;", b"a" * 64),
    "zeros of a chunk's size": (b"", b"0" * 64),
}


@pytest.mark.parametrize(("begin", "unit"), ENDLESS.values(), ids=ENDLESS)
async def test_protocol_with_endless_trailers_or_chunk_extensions_is_400_or_431(
    connection: Connection, begin: bytes, unit: bytes
) -> None:
    connection.send(CHUNKED % 1, begin)
    sent = 0
    while not connection.transport.is_closed and sent < 10 * MOST_HEADER_BYTES:
        connection.send(unit)
        sent += len(unit)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert sent < 3 * MOST_HEADER_BYTES
    [(status, _)] = await connection.answers(1)
    assert status in {400, 431}  # a size of so many digits is none
    assert connection.transport.is_closed


@pytest.mark.parametrize("size", [1, 16, 100, 65_536])
async def test_protocol_with_chunks_of_any_size_reads_the_body(
    connection: Connection, size: int
) -> None:
    count = 200_000 // size
    connection.send(CHUNKED % 1)
    for _ in range(count):
        connection.send(b"%x\r\n%s\r\n" % (size, b"a" * size))
        await asyncio.sleep(0)
    connection.send(b"0\r\n\r\n")
    assert await connection.answers(1) == [(200, "/1")]
    assert connection.app.bodies == [b"a" * size * count]


async def test_protocol_with_too_large_a_head_in_one_piece_is_431(connection: Connection) -> None:
    connection.send(GET[:-2] % 1 + b"x: " + b"y" * MOST_HEADER_BYTES + b"\r\n\r\n")
    [(status, body)] = await connection.answers(1)
    assert (status, slug_of(body)) == (431, "headers-too-large")
    assert connection.app.scopes == []
    assert connection.transport.is_closed


async def test_protocol_with_a_head_within_the_limit_beside_other_requests_accepts_it(
    connection: Connection,
) -> None:
    large = b"x: " + b"y" * (MOST_HEADER_BYTES - 200) + b"\r\n\r\n"
    body = b"a" * 900
    head = POST + b"Content-Length: 900\r\n" + large
    connection.send((head % 1 + body) * 3 + (GET % 2)[:9])
    await connection.until(lambda: not connection.transport.is_paused)
    connection.send((GET % 2)[9:])
    assert await connection.answers(4) == [(200, "/1")] * 3 + [(200, "/2")]


async def test_protocol_with_a_malformed_body_answers_400_after_earlier_requests(
    connection: Connection,
) -> None:
    connection.app.goes_on.clear()
    connection.send(GET % 1 + GET % 2 + CHUNKED % 3 + b"ZZ\r\n")
    await asyncio.sleep(0)
    assert connection.transport.received == b""
    connection.app.goes_on.set()
    assert await connection.answers(3) == [(200, "/1"), (200, "/2"), (400, "/3")]
    assert connection.transport.is_closed


async def test_protocol_with_a_malformed_head_closes_after_the_earlier_responses(
    connection: Connection,
) -> None:
    connection.app.goes_on.clear()
    connection.send(GET % 1 + GET % 2 + b"\0\0")
    connection.app.goes_on.set()
    assert await connection.answers(2) == [(200, "/1"), (200, "/2")]
    assert connection.transport.is_closed


async def test_protocol_with_a_malformed_body_during_its_response_finishes_it_and_closes(
    connection: Connection,
) -> None:
    app = connection.app
    app.reads, app.begins_at_once = False, True
    app.goes_on.clear()
    connection.send(CHUNKED.replace(b"POST", b"GET") % 1)
    await connection.until(lambda: connection.transport.received != b"")
    connection.send(b"ZZ\r\n", GET % 2)
    app.goes_on.set()
    assert await connection.answers(1) == [(200, "/1")]
    assert connection.transport.is_closed


async def test_protocol_with_a_malformed_body_after_its_response_closes_the_connection(
    connection: Connection,
) -> None:
    connection.app.reads = False
    connection.send(CHUNKED % 1)
    await connection.until(lambda: connection.transport.answers != [])
    assert not connection.transport.is_closed
    connection.send(b"ZZ\r\n")
    assert await connection.answers(1) == [(200, "/1")]
    assert connection.transport.is_closed


async def test_protocol_with_a_malformed_body_puts_the_refusal_into_the_scope(
    connection: Connection,
) -> None:
    connection.send(CHUNKED % 1, b"1\r\na\r\n")
    await connection.until(lambda: connection.app.scopes != [])
    connection.send(b"ZZ\r\n")
    problem = connection.app.scopes[0][REFUSAL]
    assert problem.slug == "malformed-request"
    connection.protocol.connection_lost(None)
    await connection.until(lambda: connection.app.bodies != [])


async def test_protocol_connection_lost_starts_no_waiting_request(
    connection: Connection,
) -> None:
    connection.app.goes_on.clear()
    connection.send(GET % 1 + GET % 2 + GET % 3)
    await connection.until(lambda: connection.app.scopes != [])
    connection.transport.is_closed = True
    connection.protocol.connection_lost(OSError())
    connection.app.goes_on.set()
    await connection.until(lambda: connection.app.bodies != [])
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(connection.app.scopes) == 1
