"""How a reference is written in a header, and read again."""

import re

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from iris_api.database.schema import MAX_REFERENCE
from iris_api.errors import InvalidRequest
from iris_api.web.reference import REFERENCE, prediction_reference

ANY = st.text(st.characters(codec="utf-8"), max_size=MAX_REFERENCE + 1)


def read(*values: bytes) -> str | None:
    headers = [(b"prediction-reference", value) for value in values]
    return prediction_reference(Request({"type": "http", "headers": headers}))


def fits(text: str) -> bool:
    """Whether the OpenAPI document allows it."""
    schema = REFERENCE["schema"]
    is_long_enough = schema["minLength"] <= len(text) <= schema["maxLength"]
    return is_long_enough and re.search(schema["pattern"].replace("$", r"\Z"), text) is not None


def test_reference_without_the_header_is_none() -> None:
    assert read() is None


@given(ANY)
def test_reference_in_utf_8_is_that_text_where_the_openapi_document_allows_it(text: str) -> None:
    text = text.strip(" \t")
    if fits(text):
        assert read(text.encode()) == text
    else:
        with pytest.raises(InvalidRequest, match="Send it once"):
            read(text.encode())


@given(ANY.map(lambda text: text.strip(" \t")).filter(fits))
def test_reference_with_blanks_around_it_is_the_same_without_them(text: str) -> None:
    assert read(b" \t" + text.encode() + b"\t ") == text


@given(st.lists(st.binary(max_size=300), max_size=3))
def test_reference_of_any_header_is_a_text_or_an_invalid_request(values: list[bytes]) -> None:
    try:
        reference = read(*values)
    except InvalidRequest as problem:
        assert [error.field for error in problem.errors] == ["Prediction-Reference"]  # noqa: PT017, or a text
    else:
        assert (reference is None) == (not values)
        assert reference is None or fits(reference)


@pytest.mark.parametrize("count", [2, 3])
def test_reference_sent_more_than_once_is_an_invalid_request(count: int) -> None:
    with pytest.raises(InvalidRequest):
        read(*[b"abc"] * count)
