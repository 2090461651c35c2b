"""Months counted, without a database."""

import math
import time
from datetime import UTC, datetime, timedelta

import pytest

from iris_api.database.partitions import (
    Coverage,
    Partition,
    PartitionHorizon,
    past_retention,
)
from iris_api.errors import DatabaseUnavailable

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def month_that_ends(year: int, month: int) -> Partition:
    return Partition("one", "attached", None, datetime(year, month, 1, tzinfo=UTC), 0, 0)


@pytest.mark.parametrize(
    ("months", "dropped"),
    [(1, 3), (2, 2), (3, 1), (4, 0), (1200, 0)],
)
def test_past_retention_keeps_the_current_month_and_so_many_whole_ones(
    months: int, dropped: int
) -> None:
    ends = [(2026, 8), (2026, 9), (2026, 10), (2026, 11), (2026, 12), (2027, 1)]
    partitions = [month_that_ends(*end) for end in ends]
    assert past_retention(partitions, NOW, months) == partitions[:dropped]


@pytest.mark.parametrize(
    ("now", "months", "kept_from"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), 1, (2025, 12)),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 12, (2025, 12)),
        (datetime(2027, 1, 1, tzinfo=UTC), 12, (2026, 1)),
    ],
)
def test_past_retention_counts_across_years(
    now: datetime, months: int, kept_from: tuple[int, int]
) -> None:
    partition = month_that_ends(*kept_from)
    assert past_retention([partition], now, months) == [partition]
    later = Partition("two", "attached", None, partition.ends_at + timedelta(microseconds=1), 0, 0)
    assert past_retention([later], now, months) == []


def test_partition_month_is_the_one_that_ends_with_it() -> None:
    assert month_that_ends(2027, 1).month == "2026-12"


@pytest.mark.parametrize(
    ("until", "months"),
    [
        (NOW, -1),
        (datetime(2026, 12, 1, tzinfo=UTC), 0),
        (datetime(2027, 1, 1, tzinfo=UTC), 1),
        (datetime(2028, 12, 1, tzinfo=UTC), 24),
    ],
)
def test_coverage_months_ahead_counts_those_after_the_current_one(
    until: datetime, months: int
) -> None:
    assert Coverage(NOW, until).months_ahead == months


def test_partition_horizon_refuses_only_what_postgresql_says_to_be_without_a_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    horizon = PartitionHorizon()
    horizon.require_partition()
    assert math.isnan(horizon.months_ahead)

    horizon.move(Coverage(NOW, NOW + timedelta(seconds=60)))
    clock += 59.9
    horizon.require_partition()
    clock += 0.1
    with pytest.raises(DatabaseUnavailable, match="iris-api partitions ensure"):
        horizon.require_partition()

    horizon.move(Coverage(NOW, NOW + timedelta(days=60)))
    horizon.require_partition()
    horizon.note_missing_partition()
    assert horizon.is_passed
    with pytest.raises(DatabaseUnavailable):
        horizon.require_partition()
