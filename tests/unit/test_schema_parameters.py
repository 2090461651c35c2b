from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from iris_api.database.schema import (
    MAX_REFERENCE,
    Instant,
    PageQuery,
    PredictionId,
    Reference,
    Text,
)

INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)
PREDICTION_ID: TypeAdapter[UUID | int] = TypeAdapter(PredictionId)
REFERENCE: TypeAdapter[str] = TypeAdapter(Reference)
TEXT: TypeAdapter[str] = TypeAdapter(Text)

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=OFFSETS)  # noqa: DTZ001
TIME_SHAPED = st.from_regex(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})",
    fullmatch=True,
)


@given(TIMES, st.sampled_from(["T", "t", " "]))
def test_instant_with_an_offset_is_converted_to_utc(time: datetime, separator: str) -> None:
    taken = INSTANT.validate_python(time.isoformat(separator))
    assert taken == time
    assert taken.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00Z", "2026-01-31t12:00:00z"])
def test_instant_with_z_is_utc(text: str) -> None:
    assert INSTANT.validate_python(text) == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_instant_keeps_its_microseconds() -> None:
    taken = INSTANT.validate_python("2026-01-31T12:00:00.123456Z")
    assert taken == datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T12:00:00",
        "2026-01-31",
        "2026-01-31T12:00Z",
        "20260131T120000Z",
        "2026-W05-6T12:00:00Z",
        "12:00:00Z",
        "1769860800",
        "P1D",
        "now",
        "",
        " 2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n",
        "2026-01-31T12:00:00 Z",
        "2026-01-31T12:00:00 00:00",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00,5Z",
        "2026-01-31T12:00:00.1234567890Z",
        "٢026-01-31T12:00:00Z",
        1769860800,
        1769860800.5,
        True,
        None,
        datetime(2026, 1, 31, 12),  # noqa: DTZ001, it is naive on purpose
    ],
)
def test_instant_in_another_form_or_without_an_offset_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        INSTANT.validate_python(value)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2026-01-31T12:00:00.000000000Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.000000001Z", "2026-01-31T12:00:00.000001Z"),
        ("2026-01-31T12:00:00.1234567+01:00", "2026-01-31T11:00:00.123457Z"),
        ("2026-01-31T23:59:59.9999999Z", "2026-02-01T00:00:00Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999Z"),  # there is none behind it
    ],
)
def test_instant_between_two_microseconds_is_rounded_up(text: str, taken: str) -> None:
    assert INSTANT.validate_python(text) == datetime.fromisoformat(taken)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-30T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:60Z",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00:00+05:60",
        "2026-01-31T12:00:00-05:99",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_instant_with_a_nonexistent_date_time_or_offset_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        INSTANT.validate_python(text)


@given(TIME_SHAPED | st.text(st.characters()))
def test_instant_of_any_text_is_in_utc_or_a_validation_error(text: str) -> None:
    try:
        taken = INSTANT.validate_python(text)
    except ValidationError:
        return
    assert taken.utcoffset() == timedelta(0)


@given(st.uuids())
def test_prediction_id_of_a_uuid_is_that_uuid(prediction_id: UUID) -> None:
    for text in (str(prediction_id), str(prediction_id).upper()):
        assert PREDICTION_ID.validate_python(text) == prediction_id


@given(st.integers(0, 10**18 - 1))
def test_prediction_id_of_digits_is_a_former_id(number: int) -> None:
    assert PREDICTION_ID.validate_python(str(number)) == number


@pytest.mark.parametrize("text", [str(2**63), "5" * 41, "5" * 5000])
def test_prediction_id_of_more_digits_than_a_former_id_had_is_0(text: str) -> None:
    assert PREDICTION_ID.validate_python(text) == 0


@given(st.text(st.characters()))
def test_prediction_id_of_any_text_is_an_id_or_a_validation_error(text: str) -> None:
    try:
        taken = PREDICTION_ID.validate_python(text)
    except ValidationError:
        return
    assert str(taken) == text.lower() or isinstance(taken, int)


@pytest.mark.parametrize(
    "text",
    ["1_0", " 5", "5 ", "5\n", "+5", "-5", "5.0", "5e0", "0x5", "", "٥", "５", "five"],  # noqa: RUF001
)
def test_prediction_id_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        PREDICTION_ID.validate_python(text)


REFERENCES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=MAX_REFERENCE
)


@given(REFERENCES)
def test_reference_without_control_characters_is_accepted(text: str) -> None:
    assert REFERENCE.validate_python(text) == text


@pytest.mark.parametrize("text", ["", "a\tb", "a\n", "\x00", "\x7f", "\x85", "\ud800", "a" * 201])
def test_reference_with_a_control_character_or_of_a_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        REFERENCE.validate_python(text)


@given(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=200))
def test_text_without_nul_is_accepted(text: str) -> None:
    assert TEXT.validate_python(text) == text


@pytest.mark.parametrize("text", ["", "\x00", "setosa\x00", "\x00setosa", "\ud800", "a" * 201])
def test_text_with_nul_or_a_surrogate_or_of_a_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TEXT.validate_python(text)


def test_page_query_has_a_limit_of_50_by_default() -> None:
    query = PageQuery()
    assert (query.limit, query.skip, query.cursor) == (50, 0, None)
    assert PageQuery.model_validate({"limit": "1000", "skip": "10000"}).limit == 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "1001"), ("skip", "-1"), ("skip", "10001"), ("page", "2")],
)
def test_page_query_out_of_bounds_or_with_an_unknown_name_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        PageQuery.model_validate({name: value})
