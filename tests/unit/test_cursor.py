import base64
import struct
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_api.database.cursor import Cursor
from iris_api.database.schema import MAX_ID

CURSORS = st.builds(Cursor, st.datetimes(timezones=st.just(UTC)), st.integers(0, MAX_ID))


def packed(version: int, microseconds: int, row_id: int) -> str:
    content = struct.pack(">Bqq", version, microseconds, row_id)
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@given(CURSORS)
def test_cursor_decode_of_an_encoded_cursor_is_the_cursor(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize("hours", [-12, -3.5, 14])
def test_cursor_encode_does_not_depend_on_the_offset_of_its_time(hours: float) -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)
    elsewhere = time.astimezone(timezone(timedelta(hours=hours)))
    assert Cursor(elsewhere, 7).encode() == Cursor(time, 7).encode()


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


def test_cursor_decode_of_layout_version_1_is_a_cursor() -> None:
    assert Cursor.decode(packed(1, 1, 7)) == Cursor(datetime(1970, 1, 1, 0, 0, 0, 1, UTC), 7)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_cursor_decode_of_another_layout_version_is_a_value_error(version: int) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(packed(version, 1, 7))


@pytest.mark.parametrize("microseconds", [-(2**63), 2**63 - 1, 253_402_300_800_000_000])
def test_cursor_decode_of_a_time_beyond_the_calendar_is_a_value_error(microseconds: int) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(packed(1, microseconds, 7))


@given(st.integers(-(2**63), -1))
def test_cursor_decode_of_a_negative_id_is_a_value_error(row_id: int) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        Cursor.decode(packed(1, 1, row_id))
