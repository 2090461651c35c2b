"""Requests that no client library would send: it may hang up, but not on the next client."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.judging import (
    BODY,
    GOOD_REQUEST,
    NO_REQUEST,
    REFUSALS,
    SETOSA_ROW,
    Stored,
    ask,
    many,
)
from tests.fuzz.wire import CHUNKED, JSON, head, in_chunks, length_of
from tests.support.answers import Answer
from tests.support.raw import connected
from tests.support.service import Service


def converse(service: Service, parts: Sequence[bytes]) -> tuple[list[Answer], int]:
    """All answers to this; it may also be that the server hangs up, or waits for the rest.

    Where nothing comes, the next client's answer shows that the server had the time, and has
    committed whatever came before. Returns also how many of these there were.
    """
    answers = []
    others = 0
    with connected(service, patience=60) as wire:
        wire.send_while_open(*parts)
        while True:
            if not wire.is_answered(0.01):
                assert ask(service, GOOD_REQUEST).status == 200
                others += 1
                if not wire.is_answered(0.1):
                    break
            answer = wire.answer_or_end()
            if answer is None:
                break
            answers.append(answer)
    return answers, others


def assert_survived(service: Service, stored: Stored, parts: Sequence[bytes]) -> list[int]:
    """Send it, judge all that comes, see that the next client is served; return the statuses."""
    answers, others = converse(service, parts)
    assert ask(service, GOOD_REQUEST).status == 200
    rows = list(stored.new().values())
    assert all(row == SETOSA_ROW for row in rows), "it stored what nobody sent"
    for number, answer in enumerate(answers, start=1):
        if answer.status == 200:
            continue
        assert answer.status in REFUSALS | {404, 405, 421, 431}
        assert answer.headers["content-type"] == "application/problem+json"
        slug = answer.json()["type"].rpartition(":")[2]
        assert slug not in NO_REQUEST or number == len(answers)
    accepted = [answer for answer in answers if answer.status == 200]
    assert len(rows) == len(accepted) + others + 1
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
def test_request_with_malformed_http_is_400(service: Service, stored: Stored, raw: bytes) -> None:
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
def test_request_with_unusual_http_is_200(service: Service, stored: Stored, raw: bytes) -> None:
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


def test_request_head_with_random_mutations_stores_nothing_wrong(
    service: Service, stored: Stored
) -> None:
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


def test_request_head_without_end_is_431(service: Service, stored: Stored) -> None:
    raw = [b"POST /predict HTTP/1.1\r\nX: ", *[b"a" * 65_536] * 160]  # 10 MiB
    assert assert_survived(service, stored, raw) in ([431], [])  # [] where a reset overtakes it


def test_request_head_with_a_path_of_70_000_bytes_is_431(service: Service, stored: Stored) -> None:
    raw = GOOD_REQUEST.replace(b"/predict", b"/" + b"a" * 70_000)
    assert assert_survived(service, stored, [raw]) in ([431], [])  # [] as above


UPGRADE = [(b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c")]


def test_request_with_an_upgrade_header_and_a_body_is_400(service: Service, stored: Stored) -> None:
    # Java's HttpClient offers HTTP/2 so, on each of its first requests, unless told otherwise.
    raw = head("/predict", JSON, LENGTH, *UPGRADE) + BODY
    assert assert_survived(service, stored, [raw]) == [400]


def test_body_of_a_request_with_an_upgrade_header_is_not_taken_as_a_request(
    service: Service, stored: Stored
) -> None:
    raw = head("/predict", JSON, length_of(GOOD_REQUEST), *UPGRADE)
    with connected(service, patience=60) as wire:
        wire.send_while_open(raw)
        # Another's answer: it has taken the head by now, so what follows comes on its own.
        ask(service, b"GET /model HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wire.send_while_open(GOOD_REQUEST)
        answers = [wire.answer_or_end() for _ in range(2) if wire.is_answered(0.5)]
    rows = stored.new()
    assert len([answer for answer in answers if answer]) == 1
    assert not rows
