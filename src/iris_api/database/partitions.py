"""The months of iris_predictions: a partition for each, made ahead, dropped when they are old.

A month is a calendar month in UTC, as ``2026-11``; its partition is iris_predictions_2026_11. It is
*attached*; or *detaching*, by a DETACH CONCURRENTLY that was interrupted; or *detached*: a table of
its own, which the service no longer reads.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, cast
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.failures import NO_PARTITION, translates_failures
from iris_api.database.pool import Driver
from iris_api.database.prediction_id import first_id_at, time_of
from iris_api.errors import DatabaseUnavailable

MONTHS_AHEAD = 24
"""How many months after the current one have partitions, as long as new ones are made."""
_FOREVER = datetime.max.replace(tzinfo=UTC)
State = Literal["attached", "detaching", "detached"]
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'(?P<start>\S+)')\) TO \('(?P<end>\S+)'\)")
_FIND = text("""
    SELECT child.oid::regclass::text,
        CASE WHEN inhrelid IS NULL THEN 'detached'
            WHEN inhdetachpending THEN 'detaching' ELSE 'attached' END,
        pg_get_expr(child.relpartbound, child.oid),
        CASE WHEN child.reltuples < 0 THEN pg_stat_get_live_tuples(child.oid)
            ELSE child.reltuples END::bigint,
        coalesce(pg_total_relation_size(child.oid), 0)
    FROM pg_class AS parent
    JOIN pg_class AS child ON child.relnamespace = parent.relnamespace
    LEFT JOIN pg_inherits ON (inhparent, inhrelid) = (parent.oid, child.oid)
    WHERE parent.oid = 'iris_predictions'::regclass AND child.relkind = 'r' AND (
        inhrelid IS NOT NULL OR NOT child.relispartition
            AND child.relname ~ '^iris_predictions_[0-9]{4}_(0[1-9]|1[0-2])$'
            AND EXISTS (
                SELECT FROM pg_attribute WHERE (attrelid, attname, atttypid)
                    = (child.oid, 'transaction', 'xid8'::regtype)))
""")
_FIND_COVERAGE = text("""
    SELECT clock_timestamp(), ARRAY(
        SELECT pg_get_expr(relpartbound, oid) FROM pg_class JOIN pg_inherits ON inhrelid = oid
        WHERE inhparent = 'iris_predictions'::regclass AND NOT inhdetachpending)
""")
_FIND_OWNER = text("""
    SELECT current_user, pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE')
    FROM pg_class WHERE oid = 'iris_predictions'::regclass
""")


@dataclass(frozen=True, slots=True)
class Partition:
    """One month. ``rows`` is PostgreSQL's estimate; ``bytes`` includes the indexes."""

    name: str
    """As SQL has it: with its schema, and quoted, where that is needed."""
    state: State
    starts_at: datetime | None
    """None: it takes all earlier predictions, too."""
    ends_at: datetime
    rows: int
    bytes: int

    @property
    def month(self) -> str:
        """The month, as ``2026-11``."""
        return f"{self.ends_at - timedelta(microseconds=1):%Y-%m}"


class Coverage(NamedTuple):
    """PostgreSQL's time, and until when predictions from then on have partitions without a gap."""

    now: datetime
    until: datetime

    @property
    def months_ahead(self) -> int:
        """How many months after the current one have partitions; -1 if even that has none."""
        return _number_of(self.until) - _number_of(self.now) - 1


class PartitionHorizon:
    """Until when predictions have partitions, as PostgreSQL last said, by this process's clock."""

    def __init__(self) -> None:
        self.months_ahead = math.nan
        """Those of the last `Coverage`; NaN before the first."""
        self._ends_at = math.inf  # in seconds of time.monotonic()

    @property
    def is_passed(self) -> bool:
        """Whether a prediction of now has no partition."""
        return time.monotonic() >= self._ends_at

    def require_partition(self) -> None:
        """Raise `DatabaseUnavailable` if a prediction of now has no partition."""
        if time.monotonic() >= self._ends_at:
            raise DatabaseUnavailable(NO_PARTITION)

    def move(self, coverage: Coverage) -> None:
        """Take what PostgreSQL has just said."""
        self.months_ahead = coverage.months_ahead
        self._ends_at = time.monotonic() + (coverage.until - coverage.now).total_seconds()

    def note_missing_partition(self) -> None:
        """Refuse predictions until the next `move`: one has just had no partition."""
        self._ends_at = -math.inf


@translates_failures
async def find_coverage(session: AsyncSession) -> Coverage:
    """Return until when predictions have partitions."""
    now, bounds = (await session.execute(_FIND_COVERAGE)).one()
    until = now
    for starts_at, ends_at in sorted(map(_times_of, bounds), key=lambda times: times[1]):
        if starts_at is None or starts_at <= until:
            until = max(until, ends_at)
    return Coverage(now, until)


@translates_failures
async def find_partitions(session: AsyncSession) -> list[Partition]:
    """Return all months, the oldest first."""
    found = [
        Partition(name, state, *(_times_of(bounds) if bounds else _month_of(name)), rows, size)
        for name, state, bounds, rows, size in await session.execute(_FIND)
    ]
    return sorted(found, key=lambda partition: partition.ends_at)


def past_retention(partitions: Sequence[Partition], now: datetime, months: int) -> list[Partition]:
    """Return those that ended before the ``months`` whole months before the current one."""
    year, month = divmod(_number_of(now) - months, 12)
    kept_from = datetime(year, month + 1, 1, tzinfo=UTC)
    return [partition for partition in partitions if partition.ends_at <= kept_from]


@translates_failures
async def why_not_owner(session: AsyncSession) -> str | None:
    """Return why the session's role cannot make or drop months; None if it can."""
    role, owner, is_owner = (await session.execute(_FIND_OWNER)).one()
    if is_owner:
        return None
    return (
        f"The role {role} can neither make nor drop months: it does not own iris_predictions. Set "
        f"IRIS_MIGRATION_DATABASE_URL to a URL of the role {owner}."
    )


@translates_failures
async def add_months(session: AsyncSession, months_ahead: int = MONTHS_AHEAD) -> list[str]:
    """Make the partitions up to so many months after the current one; return the new months."""
    added = await session.scalars(
        text("SELECT iris_add_partitions(:months_ahead)"), {"months_ahead": months_ahead}
    )
    months = list(added)
    await session.commit()
    return months


@translates_failures
async def detach(session: AsyncSession, partition: Partition) -> None:
    """Detach a month, without a pause for requests. First finish what was interrupted before.

    It waits for all transactions that use the table.
    """
    for other in await find_partitions(session):
        if other.state == "detaching":
            await _detach(session, other, "FINALIZE")
    if partition.state == "attached":
        await _detach(session, partition, "CONCURRENTLY")


async def _detach(session: AsyncSession, partition: Partition, how: str) -> None:
    await session.commit()  # PostgreSQL detaches concurrently only outside of a transaction
    connection = await (await session.connection()).get_raw_connection()
    driver = cast(Driver, connection.driver_connection)
    await driver.execute(f"ALTER TABLE iris_predictions DETACH PARTITION {partition.name} {how}")


@translates_failures
async def drop(session: AsyncSession, partition: Partition) -> None:
    """Drop a detached month, and the former ids of its predictions."""
    connection = await session.connection()
    await connection.exec_driver_sql(
        f"DELETE FROM former_prediction_ids USING {partition.name} AS month"  # noqa: S608
        " WHERE former_prediction_ids.id = month.id"
    )
    await connection.exec_driver_sql(f"DROP TABLE {partition.name}")
    await session.commit()


def _number_of(instant: datetime) -> int:
    """Return the number of a time's month, counted from the year 0."""
    return instant.year * 12 + instant.month - 1


def _times_of(bounds: str) -> tuple[datetime | None, datetime]:
    """Return the times of a partition's bounds, which are ids.

    One that an operator made may have none, or beyond all times: it takes all later predictions.
    """
    found = _BOUNDS.search(bounds)
    if found is None:
        return None, _FOREVER
    start, end = found["start"], UUID(found["end"])
    starts_at = None if start is None else time_of(UUID(start))
    return starts_at, time_of(end) if end < first_id_at(_FOREVER) else _FOREVER


def _month_of(name: str) -> tuple[datetime, datetime]:
    """Return the times of a detached month, which has no bounds any more."""
    start = datetime.strptime(name[-len("2026_11") :], "%Y_%m").replace(tzinfo=UTC)
    return start, (start + timedelta(days=31)).replace(day=1)
