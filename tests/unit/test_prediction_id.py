from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_api.database.prediction_id import first_id_at, time_of

INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@given(INSTANTS)
def test_time_of_the_first_id_at_an_instant_is_that_instant(instant: datetime) -> None:
    first = first_id_at(instant)
    assert (first.version, first.variant) == (7, RFC_4122)
    assert time_of(first) == instant


@given(INSTANTS, st.integers(0, 2**62 - 1))
def test_ids_are_in_the_order_of_their_times(instant: datetime, random: int) -> None:
    some = UUID(int=first_id_at(instant).int | random)
    assert time_of(some) == instant
    assert first_id_at(instant) <= some < first_id_at(instant + timedelta(microseconds=1))


@pytest.mark.parametrize("year", [1, 1969])
def test_first_id_at_a_time_before_1970_is_the_least_of_all(year: int) -> None:
    assert first_id_at(datetime(year, 1, 1, tzinfo=UTC)) == UUID(int=0)
