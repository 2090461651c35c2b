import base64
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_api.database.cursor import Cursor, FormerCursorError

CURSORS = st.builds(Cursor, st.uuids())
ROW = UUID("019c13ec-9e7b-774b-8a3c-5d1f9e2b7a40")


def packed(version: int, rest: bytes) -> str:
    return base64.urlsafe_b64encode(bytes([version]) + rest).rstrip(b"=").decode()


@given(CURSORS)
def test_cursor_decode_of_an_encoded_cursor_is_the_cursor(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor


@given(CURSORS)
def test_cursor_encode_needs_no_escaping_in_a_url(cursor: Cursor) -> None:
    assert quote(cursor.encode(), safe="") == cursor.encode()


@given(st.text(st.characters()))
def test_cursor_decode_of_random_text_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a cursor|ASCII"):
        Cursor.decode(text)


@given(CURSORS, st.data())
def test_cursor_decode_of_a_part_is_a_value_error(cursor: Cursor, data: st.DataObject) -> None:
    text = cursor.encode()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    if (start, end) != (0, len(text)):
        with pytest.raises(ValueError, match="not a cursor"):
            Cursor.decode(text[start:end])


@given(CURSORS, st.integers(0, 22), st.characters())
def test_cursor_decode_with_a_changed_character_is_another_cursor_or_a_value_error(
    cursor: Cursor, position: int, character: str
) -> None:
    text = cursor.encode()
    changed = text[:position] + character + text[position + 1 :]
    try:
        decoded = Cursor.decode(changed)
    except ValueError:
        return
    assert decoded.encode() == changed
    assert (decoded == cursor) == (changed == text)


@given(CURSORS, st.sampled_from(["=", " ", "\n", "A", "\x00", "é", "\ud800"]))
def test_cursor_decode_with_an_added_character_is_a_value_error(
    cursor: Cursor, addition: str
) -> None:
    for text in (cursor.encode() + addition, addition + cursor.encode()):
        with pytest.raises(ValueError, match=r"not a cursor|ASCII"):
            Cursor.decode(text)


def test_cursor_decode_of_layout_version_2_is_a_cursor() -> None:
    assert Cursor.decode(packed(2, ROW.bytes)) == Cursor(ROW)


def test_cursor_decode_of_layout_version_1_is_a_former_cursor_error() -> None:
    with pytest.raises(FormerCursorError):
        Cursor.decode(packed(1, ROW.bytes))


@pytest.mark.parametrize("version", [0, 3, 255])
def test_cursor_decode_of_another_layout_version_is_a_value_error(version: int) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(packed(version, ROW.bytes))
