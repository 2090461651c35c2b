"""How an Idempotency-Key is written in a header, and read again."""

import re

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from iris_api.errors import InvalidRequest
from iris_api.web.idempotency_key import IDEMPOTENCY_KEY, idempotency_key

PATTERN: str = IDEMPOTENCY_KEY["schema"]["pattern"]
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


def read(*values: bytes) -> str | None:
    headers = [(b"idempotency-key", value) for value in values]
    return idempotency_key(Request({"type": "http", "headers": headers}))


def quoted(key: str) -> bytes:
    """A String of RFC 8941, section 4.1.6."""
    return b'"' + key.replace("\\", r"\\").replace('"', r"\"").encode() + b'"'


def test_idempotency_key_without_the_header_is_none() -> None:
    assert read() is None


@given(PRINTABLE)
def test_idempotency_key_in_quotes_may_be_any_printable_text(key: str) -> None:
    assert read(quoted(key)) == key
    assert re.fullmatch(PATTERN, quoted(key).decode())


@given(PRINTABLE)
def test_idempotency_key_without_spaces_or_leading_quote_is_the_same_without_quotes(
    key: str,
) -> None:
    key = key.replace(" ", "_")
    if not key.startswith('"'):
        assert read(key.encode()) == read(quoted(key)) == key


@given(PRINTABLE, PRINTABLE)
def test_idempotency_key_of_different_headers_is_different(one: str, other: str) -> None:
    assert (read(quoted(one)) == read(quoted(other))) == (one == other)


@given(st.from_regex(re.compile(PATTERN, re.ASCII), fullmatch=True))
def test_idempotency_key_matching_the_openapi_pattern_is_accepted(value: str) -> None:
    assert read(value.encode()) is not None


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=1))
def test_idempotency_key_not_matching_the_openapi_pattern_is_an_invalid_request(
    values: list[bytes],
) -> None:
    value = values[0].strip().decode("latin-1")
    if re.fullmatch(PATTERN, value):
        assert read(*values)
    else:
        with pytest.raises(InvalidRequest):
            read(*values)


def test_idempotency_key_with_spaces_and_without_quotes_is_refused_with_advice() -> None:
    with pytest.raises(InvalidRequest, match='spaces only in double quotes: "a b"'):
        read(b"a b")
    assert read(b'"a b"') == "a b"


@given(st.lists(st.binary(max_size=300), max_size=3))
def test_idempotency_key_of_any_header_is_a_key_or_an_invalid_request(values: list[bytes]) -> None:
    try:
        key = read(*values)
    except InvalidRequest as problem:
        assert [error.field for error in problem.errors] == ["Idempotency-Key"]  # noqa: PT017, or a key
    else:
        assert (key is None) == (not values)
        assert key is None or (1 <= len(key) <= 255 and key.isascii() and key.isprintable())


@pytest.mark.parametrize("count", [2, 3])
def test_idempotency_key_sent_more_than_once_is_an_invalid_request(count: int) -> None:
    with pytest.raises(InvalidRequest):
        read(*[b"abc"] * count)
