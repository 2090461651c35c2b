"""Bodies that no client library would send, to a real server.

Whatever comes, the answer is 200 or a 4xx; a 200 has stored exactly what was sent, a 4xx nothing,
and the server goes on.
"""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.conftest import MAX_BODY_BYTES
from tests.fuzz.flowers import BODIES, GOOD, harmed, references
from tests.fuzz.judging import BODY, PATHS, Stored, ask, assert_kept, many
from tests.fuzz.wire import CHUNKED, JSON, Header, head, in_chunks, request
from tests.support.flowers import SETOSA
from tests.support.raw import connected
from tests.support.service import Service


@pytest.mark.parametrize("path", PATHS)
def test_predict_with_a_body_of_any_text_stores_it_exactly_or_not_at_all(
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
def test_predict_with_a_body_of_any_bytes_stores_it_exactly_or_not_at_all(
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
def test_predict_with_an_extreme_body_is_refused(
    service: Service, stored: Stored, path: str, body: bytes
) -> None:
    for parts in (
        [request(path, body, JSON)],
        [head(path, JSON, CHUNKED), *in_chunks(body, [65_536])],
    ):
        answer = ask(service, *parts)
        assert assert_kept(answer, body, stored.new()) != 200
        assert len(answer.body) < 50_000


TYPES = [b"application/json", b"APPLICATION/JSON ; charset=utf-16", b"application/vnd.iris+json"]
ODD_TYPES = [b"", b"application/json, text/plain", b"text/json", b"+json", b";", b"\xff/\xfe+json"]
ODD_HEADERS = [
    *[(b"Content-Encoding", value) for value in (b"gzip", b"identity", b"br, gzip", b"")],
    *[(b"Accept", value) for value in (b"text/html", b"application/json;q=0", b"\xff")],
    *[(b"Authorization", value) for value in (b"Bearer", b"Bearer \xff", b"Basic Og==", b"")],
    *[(b"Idempotency-Key", value) for value in (b"k" * 256, b"\xe9", b"a\tb")],
    *[(b"Prediction-Reference", value) for value in (b"", b"\xff", b"a\tb", b"a" * 201)],
    *[(b"X-Request-ID", value) for value in (b"", b"\xff", b"a" * 129, b"a b", b"{}")],
    *[(b"Content-Location", b"//x"), (b"Forwarded", b"for=x"), (b"X-Forwarded-For", b"x, y")],
    *[(b"X-HTTP-Method-Override", b"DELETE"), (b"Range", b"bytes=0-0"), (b"If-Match", b"*")],
    *[(b"Expect", b"100-continue"), (b"Accept-Encoding", b"*"), (b"TE", b"trailers")],
    *[(b"X-" + b"a" * 8000, b"1"), (b"Cookie", b"a" * 8000)],
]


@pytest.mark.parametrize("path", PATHS)
def test_predict_with_any_headers_stores_the_body_exactly_or_not_at_all(
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
    @given(GOOD[path], types, st.lists(odd, max_size=4), st.none() | references())
    def holds(text: str, types: list[Header], others: list[Header], reference: str | None) -> None:
        body = text.encode()
        if reference is not None:
            others = [*others, (b"Prediction-Reference", reference.encode())]
        answer = ask(service, request(path, body, *types, *others))
        seen[assert_kept(answer, body, stored.new(), reference)] += 1

    holds()
    assert seen[200] > 50
    assert seen[415] > 10


@pytest.mark.parametrize("path", PATHS)
def test_predict_with_a_chunked_body_has_the_outcome_of_an_unchunked_one(
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


def test_predict_with_pipelined_requests_responds_in_their_order(
    service: Service, stored: Stored
) -> None:
    lengths = [number / 8 for number in range(1, 41)]
    bodies = [json.dumps({**SETOSA, "sepal_length": length}).encode() for length in lengths]
    with connected(service, patience=60) as wire:
        wire.send_while_open(b"".join(request("/predict", body, JSON) for body in bodies))
        answers = [wire.answer_or_end() for _ in bodies]
    rows = stored.new()
    assert len(rows) == len(bodies)
    assert [rows[answer.json()["id"]][0] for answer in answers if answer] == lengths
