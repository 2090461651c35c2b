"""Bodies and requests that no client library would send, to a real server.

Whatever comes, the answer is 200 or a 4xx; a 200 has stored exactly what was sent, a 4xx nothing,
and the server goes on.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL
from tests.conftest import dsn_of
from tests.e2e.service import SETOSA, Service
from tests.fuzz.conftest import MAX_BODY_BYTES
from tests.fuzz.flowers import BODIES, GOOD, MARK, MEASURES, harmed, measures_of
from tests.fuzz.wire import CHUNKED, JSON, Answer, Header, Wire, head, in_chunks, length_of, request

PATHS = ["/predict", "/predict/batch"]
BODY = json.dumps(SETOSA).encode()
GOOD_REQUEST = request("/predict", BODY, JSON)
SETOSA_ROW = tuple(SETOSA[name] for name in MEASURES)
REFUSALS = {400, 408, 413, 415, 422}
NO_REQUEST = {"malformed-request", "misdirected", "headers-too-large"}
"""The slugs of problems after which the server hangs up."""

Row = tuple[float, ...]


def many(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Stored:
    """What is in the table, seen over a connection beside the service's own."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection) -> None:
        self.runner = runner
        self.connection = connection
        self.seen = 0
        self.new()

    def new(self) -> dict[int, Row]:
        """The rows since the last time, by id."""
        columns = ", ".join(MEASURES)
        query = f"SELECT id, {columns} FROM iris_predictions WHERE id > $1 ORDER BY id"  # noqa: S608
        rows = self.runner.run(self.connection.fetch(query, self.seen))
        self.seen = rows[-1]["id"] if rows else self.seen
        return {row["id"]: tuple(row)[1:] for row in rows}


@pytest.fixture(scope="module")
def stored(service: Service, service_database: URL) -> Iterator[Stored]:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn_of(service_database)))
        yield Stored(runner, connection)
        runner.run(connection.close())


def ask(service: Service, *parts: bytes) -> Answer:
    with Wire(service.port) as wire:
        wire.send(*parts)
        answer = wire.read()
        assert answer is not None, "it hung up"
        return answer


def assert_kept(answer: Answer, body: bytes, rows: dict[int, Row]) -> int:
    """Hold an answer and what is stored since against the body; return the status."""
    if answer.status == 200:
        items = answer.json().get("items", [answer.json()])
        assert [item["id"] for item in items] == list(rows)
        assert list(rows.values()) == measures_of(body)
    else:
        assert not rows
        assert_refused(answer)
    return answer.status


def assert_refused(answer: Answer) -> None:
    assert answer.status in REFUSALS, answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert MARK.encode() not in answer.content


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_any_text_is_stored_as_it_is_or_not_at_all(
    service: Service, stored: Stored, path: str
) -> None:
    seen: Counter[int] = Counter()

    @many(200)
    @given(BODIES[path])
    def holds(text: str) -> None:
        body = text.encode()
        seen[assert_kept(ask(service, request(path, body, JSON)), body, stored.new())] += 1

    holds()
    assert set(seen) == {200, 400, 422}
    assert seen[200] > 50


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_any_bytes_is_stored_as_it_is_or_not_at_all(
    service: Service, stored: Stored, path: str
) -> None:
    seen: Counter[int] = Counter()

    @many(200)
    @given(harmed(GOOD[path]) | st.binary(max_size=300))
    def holds(body: bytes) -> None:
        seen[assert_kept(ask(service, request(path, body, JSON)), body, stored.new())] += 1

    holds()
    assert set(seen) >= {400, 422}


EXTREMES = {
    "nothing": b"",
    "lists, deep": b"[" * 100_000 + b"]" * 100_000,
    "objects, deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a batch, deep": b'{"items":[' * 50_000 + b"]}" * 50_000,
    "a measure, deep": b'{"sepal_length":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an integer, long": b'{"sepal_length": ' + b"9" * 500_000 + b"}",
    "a fraction, long": b'{"sepal_length": 5.' + b"1" * 500_000 + b"}",
    "an exponent, long": b'{"sepal_length": 1e' + b"9" * 500_000 + b"}",
    "a text, long": b'{"sepal_length": "' + b"a" * 500_000 + b'"}',
    "a name, long": b'{"' + b"a" * 500_000 + b'": 1}',
    "a name, 50,000 times": b"{" + b'"sepal_length": 5,' * 50_000 + b'"sepal_width": 3}',
    "names, 50,000": b"{" + b",".join(b'"%d": 1' % number for number in range(50_000)) + b"}",
    "items, 10,001": b'{"items": [' + b",".join([b"1"] * 10_001) + b"]}",
    "items, 10,000 empty ones": b'{"items": [' + b",".join([b"{}"] * 10_000) + b"]}",
    "escapes": b'"' + rb"\ud800" * 80_000 + b'"',
    "NUL": b"\0" * 500_000,
    "spaces": b" " * 900_000,
    "one byte too many": b" " * (MAX_BODY_BYTES + 1),
    "not JSON, in BOMs": b"\xef\xbb\xbf" * 1000 + BODY,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", EXTREMES.values(), ids=EXTREMES)
def test_a_body_at_the_extremes_is_refused(
    service: Service, stored: Stored, path: str, body: bytes
) -> None:
    for parts in (
        [request(path, body, JSON)],
        [head(path, JSON, CHUNKED), *in_chunks(body, [65_536])],
    ):
        answer = ask(service, *parts)
        assert assert_kept(answer, body, stored.new()) != 200
        assert len(answer.content) < 50_000


TYPES = [b"application/json", b"APPLICATION/JSON ; charset=utf-16", b"application/vnd.iris+json"]
ODD_TYPES = [b"", b"application/json, text/plain", b"text/json", b"+json", b";", b"\xff/\xfe+json"]
ODD_HEADERS = [
    *[(b"Content-Encoding", value) for value in (b"gzip", b"identity", b"br, gzip", b"")],
    *[(b"Accept", value) for value in (b"text/html", b"application/json;q=0", b"\xff")],
    *[(b"Authorization", value) for value in (b"Bearer", b"Bearer \xff", b"Basic Og==", b"")],
    *[(b"Idempotency-Key", value) for value in (b"k" * 256, b"\xe9", b"a\tb")],
    *[(b"X-Request-ID", value) for value in (b"", b"\xff", b"a" * 129, b"a b", b"{}")],
    *[(b"Content-Location", b"//x"), (b"Forwarded", b"for=x"), (b"X-Forwarded-For", b"x, y")],
    *[(b"X-HTTP-Method-Override", b"DELETE"), (b"Range", b"bytes=0-0"), (b"If-Match", b"*")],
    *[(b"Expect", b"100-continue"), (b"Accept-Encoding", b"*"), (b"TE", b"trailers")],
    *[(b"X-" + b"a" * 8000, b"1"), (b"Cookie", b"a" * 8000)],
]


@pytest.mark.parametrize("path", PATHS)
def test_headers_of_any_kind_change_nothing_about_it(
    service: Service, stored: Stored, path: str
) -> None:
    values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30)
    odd = st.sampled_from(ODD_HEADERS) | st.tuples(
        st.sampled_from([b"Accept", b"Content-Language", b"Authorization", b"X-Request-ID"]),
        values.map(lambda text: text.encode("latin-1")),
    )
    types = st.sampled_from(TYPES * 2 + ODD_TYPES).map(lambda value: [(b"Content-Type", value)])
    seen: Counter[int] = Counter()

    @many(150)
    @given(GOOD[path], types, st.lists(odd, max_size=4))
    def holds(text: str, types: list[Header], others: list[Header]) -> None:
        body = text.encode()
        answer = ask(service, request(path, body, *types, *others))
        seen[assert_kept(answer, body, stored.new())] += 1

    holds()
    assert seen[200] > 50
    assert seen[415] > 10


@pytest.mark.parametrize("path", PATHS)
def test_it_is_the_same_in_chunks_and_in_pieces(
    service: Service, stored: Stored, path: str
) -> None:
    extensions = st.sampled_from([b"", b";a", b';a="b;c"'])

    @many(80)
    @given(BODIES[path], st.lists(st.integers(1, 40), min_size=1, max_size=3), extensions)
    def holds(text: str, sizes: list[int], extension: bytes) -> None:
        body = text.encode()
        announced = ask(service, request(path, body, JSON))
        rows = stored.new()
        chunks = in_chunks(body, sizes, extension)
        chunked = ask(service, head(path, JSON, CHUNKED), *chunks)
        assert_kept(chunked, body, again := stored.new())
        assert chunked.status == announced.status
        assert list(again.values()) == list(rows.values())

    holds()


def test_requests_in_a_row_are_answered_in_their_order(service: Service, stored: Stored) -> None:
    lengths = [number / 8 for number in range(1, 41)]
    bodies = [json.dumps({**SETOSA, "sepal_length": length}).encode() for length in lengths]
    with Wire(service.port) as wire:
        wire.send(b"".join(request("/predict", body, JSON) for body in bodies))
        answers = [wire.read() for _ in bodies]
    rows = stored.new()
    assert len(rows) == len(bodies)
    assert [rows[answer.json()["id"]][0] for answer in answers if answer] == lengths


def converse(service: Service, parts: Sequence[bytes]) -> list[Answer]:
    """All answers to this; it may also be that the server hangs up, or waits for the rest."""
    answers = []
    with Wire(service.port) as wire:
        wire.send(*parts)
        # Where nothing comes, the server has first shown by another answer that it had the time.
        while wire.is_answered(0.01) or (is_well(service) and wire.is_answered(0.1)):
            answer = wire.read()
            if answer is None:
                break
            answers.append(answer)
    return answers


def is_well(service: Service) -> bool:
    return ask(service, b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200


def assert_survived(service: Service, stored: Stored, parts: Sequence[bytes]) -> list[int]:
    """Send it, judge all that comes, see that the next client is served; return the statuses."""
    answers = converse(service, parts)
    assert ask(service, GOOD_REQUEST).status == 200
    *rows, of_the_next = stored.new().values()
    assert of_the_next == SETOSA_ROW
    assert all(row == SETOSA_ROW for row in rows), "it stored what nobody sent"
    for number, answer in enumerate(answers, start=1):
        if answer.status == 200:
            continue
        assert answer.status in REFUSALS | {404, 405, 421, 431}
        assert answer.headers["content-type"] == "application/problem+json"
        slug = answer.json()["type"].rpartition(":")[2]
        assert slug not in NO_REQUEST or number == len(answers)
    accepted = [answer for answer in answers if answer.status == 200]
    assert len(rows) == len(accepted)
    return [answer.status for answer in answers]


LENGTH = length_of(BODY)
IN_CHUNKS = b"".join(in_chunks(BODY, [16]))


def announced(value: bytes) -> bytes:
    return head("/predict", JSON, (b"Content-Length", value)) + BODY


def coded(value: bytes) -> bytes:
    return head("/predict", JSON, (b"Transfer-Encoding", value)) + IN_CHUNKS


def chunk(data: bytes) -> bytes:
    return head("/predict", JSON, CHUNKED) + data


MALFORMED = {
    "nothing of HTTP": b"\x00\xff\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown version": GOOD_REQUEST.replace(b"HTTP/1.1", b"HTTP/9.9"),
    "an unknown method": GOOD_REQUEST.replace(b"POST", b"post"),
    "a tunnel": GOOD_REQUEST.replace(b"POST /predict", b"CONNECT iris:80"),
    "a path with a byte over 127": GOOD_REQUEST.replace(b"/predict", b"/pr\xe9dict"),
    "a query with a control character": GOOD_REQUEST.replace(b"/predict", b"/predict?\x01"),
    "a name with a space": head("/predict", JSON, LENGTH, (b"X ", b"1")) + BODY,
    "a folded value": head("/predict", JSON, LENGTH, (b"X", b"1\r\n 2")) + BODY,
    "a value with NUL": head("/predict", JSON, LENGTH, (b"X", b"a\0b")) + BODY,
    "a value with CR": head("/predict", JSON, LENGTH, (b"X", b"a\rb")) + BODY,
    "a value with LF": head("/predict", JSON, LENGTH, (b"X", b"a\nY: b")) + BODY,
    "a body of no length": head("/predict", JSON) + BODY,
    "two lengths": head("/predict", JSON, LENGTH, (b"Content-Length", b"5")) + BODY,
    "a length twice": head("/predict", JSON, LENGTH, LENGTH) + BODY,
    "a length and chunks": head("/predict", JSON, LENGTH, CHUNKED) + IN_CHUNKS,
    "chunks and a length": head("/predict", JSON, CHUNKED, LENGTH) + IN_CHUNKS,
    "a length, chunks and a second request": (
        head("/predict", JSON, (b"Content-Length", b"4"), CHUNKED) + b"0\r\n\r\n" + GOOD_REQUEST
    ),
    "a length too short": announced(b"%d" % (len(BODY) - 5)),
    **{
        f"the length {value!r}": announced(value)
        for value in (b"", b"-1", b"+79", b"0x4f", b"7_9", b"79, 79", b"79\0", b"7 9", b"9" * 30)
    },
    **{
        f"the coding {value!r}": coded(value)
        for value in (b"", b"identity", b"xchunked", b"chunked, gzip", b"chunked;a", b"\x0bchunked")
    },
    **{
        f"the chunk {value!r}": chunk(value)
        for value in (
            *(b"G\r\n", b"-5\r\nabc", b"0x5\r\nabcde\r\n", b" 5\r\nabcde\r\n", b"5 5\r\nabcde"),
            *(b"F" * 17 + b"\r\n", b"5\r\nabcdefgh\r\n", b"5\nabcde\n0\n\n", b"\r\n", b"5\r\r\nab"),
        )
    },
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_http_is_refused(service: Service, stored: Stored, raw: bytes) -> None:
    top, end, rest = raw.partition(b"\r\n\r\n")
    for parts in ([raw], [top + end, rest]):
        assert assert_survived(service, stored, parts)[-1:] == [400]


UNUSUAL = {
    "HTTP/1.0": GOOD_REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "another host's URL": GOOD_REQUEST.replace(b"/predict", b"http://elsewhere/predict"),
    "a fragment": GOOD_REQUEST.replace(b"/predict", b"/predict#there?and=more"),
    "a query": GOOD_REQUEST.replace(b"/predict", b"/predict?%00=%ff&&="),
    "empty lines before it": b"\r\n\r\n" + GOOD_REQUEST,
    "1,000 headers": head("/predict", *[(b"X", b"1")] * 1000, JSON, LENGTH) + BODY,
    "a byte over 127": head("/predict", (b"X", b"\xff"), JSON, LENGTH) + BODY,
    "zeros before a length": announced(b"0000%d" % len(BODY)),
    "spaces around a length": announced(b" \t%d \t" % len(BODY)),
    "zeros before a chunk's size": chunk(IN_CHUNKS.replace(b"10\r\n", b"00010\r\n")),
    "an expectation": head("/predict", (b"Expect", b"100-continue"), JSON, LENGTH) + BODY,
}


@pytest.mark.parametrize("raw", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_http_is_answered(service: Service, stored: Stored, raw: bytes) -> None:
    assert assert_survived(service, stored, [raw]) == [200]


INSERTIONS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b":",
        b"\t",
        b"\x80",
        b"\xff",
        b"/",
        b"?",
        b"%",
        b",",
        b"0",
    ),
    *(b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nConnection: close"),
    *(b"\r\nHost: b", b"\r\nContent-Type: text/plain", b"\r\n\r\n", b"\r\nX: " + b"a" * 3000),
]


def test_a_request_with_any_harm_to_its_head_does_none(service: Service, stored: Stored) -> None:
    top = GOOD_REQUEST.removesuffix(BODY)
    harms = st.tuples(
        st.integers(0, len(top)),
        st.integers(0, 4),
        st.sampled_from(INSERTIONS) | st.binary(max_size=3),
    )
    seen: Counter[int] = Counter()

    @many(200)
    @given(st.lists(harms, min_size=1, max_size=2))
    def holds(harms: list[tuple[int, int, bytes]]) -> None:
        raw = top
        for place, length, inserted in harms:
            raw = raw[:place] + inserted + raw[place + length :]
        seen.update(assert_survived(service, stored, [raw + BODY]))

    holds()
    assert set(seen) >= {200, 400, 404, 415}


def test_a_head_without_end_is_cut_off(service: Service, stored: Stored) -> None:
    raw = [b"POST /predict HTTP/1.1\r\nX: ", *[b"a" * 65_536] * 160]  # 10 MiB
    assert assert_survived(service, stored, raw) in ([431], [])  # [] where a reset overtakes it


def test_a_path_of_70_000_bytes_is_too_long(service: Service, stored: Stored) -> None:
    raw = GOOD_REQUEST.replace(b"/predict", b"/" + b"a" * 70_000)
    assert assert_survived(service, stored, [raw]) in ([431], [])  # [] as above


UPGRADE = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c")]


def test_a_body_beside_an_offer_to_upgrade_is_read(service: Service, stored: Stored) -> None:
    # Java's HttpClient offers HTTP/2 so, on each of its first requests.
    raw = head("/predict", JSON, LENGTH, *UPGRADE) + BODY
    assert assert_survived(service, stored, [raw]) == [200]


def test_a_body_beside_an_offer_to_upgrade_is_no_request(service: Service, stored: Stored) -> None:
    raw = head("/predict", JSON, length_of(GOOD_REQUEST), *UPGRADE)
    with Wire(service.port) as wire:
        wire.send(raw)
        is_well(service)  # it has taken the head by now, so what follows comes on its own
        wire.send(GOOD_REQUEST)
        answers = [wire.read() for _ in range(2) if wire.is_answered(0.5)]
    rows = stored.new()
    assert len([answer for answer in answers if answer]) == 1
    assert not rows
