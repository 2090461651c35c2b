"""``iris-api partitions list | ensure | detach | drop``."""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import typer
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api import signals
from iris_api.cli.console import begin, print_table
from iris_api.database import partitions
from iris_api.database.owner import as_owner, owner_session
from iris_api.database.partitions import MONTHS_AHEAD, Partition
from iris_api.embedded.postgres import provide_database
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

T = TypeVar("T")
_MONTH = re.compile("[0-9]{4}-(0[1-9]|1[0-2])", re.ASCII)


def list_all() -> None:
    """List all months, the oldest first."""
    settings, _ = begin()
    with _owner_database(settings) as database:
        found = _run(database, partitions.find_partitions)
    print_table(
        ["month", "state", "from", "to", "rows", "bytes"],
        [
            [
                one.month,
                one.state,
                *map(_as_text, (one.starts_at, one.ends_at)),
                str(one.rows),
                str(one.bytes),
            ]
            for one in found
        ],
    )


def ensure() -> None:
    """Make the months ahead. Raises `ConfigurationError` if the role may not."""
    settings, console = begin()

    async def add(session: AsyncSession) -> list[str]:
        await _require_owner(session)
        return await partitions.add_months(session)

    with _owner_database(settings) as database:
        added = _run(database, add)
    console.info(
        f"New months: {', '.join(added) or 'none'}. There are {MONTHS_AHEAD} after this one",
        event="months_added",
        months=added,
    )


def detach(month: str, *, is_sure: bool) -> None:
    """Take a month out of the table, which becomes a table of its own."""
    _check(month)
    settings, console = begin()
    with _owner_database(settings) as database:
        found = _find(database, month)
        _confirm(
            f"Detach {month}? The history then lacks {_content(found)}; they stay in the table "
            f"{found.name}.",
            is_sure=is_sure,
        )
        _run(database, lambda session: partitions.detach(session, found))
    console.info(
        f"{month} is detached: its predictions are in the table {found.name}",
        event="month_detached",
        month=month,
    )


def drop(month: str, *, is_sure: bool) -> None:
    """Delete a month with all that is in it."""
    _check(month)
    settings, console = begin()

    async def end(session: AsyncSession) -> None:
        await partitions.detach(session, found)
        await partitions.drop(session, found)

    with _owner_database(settings) as database:
        found = _find(database, month)
        _confirm(f"Drop {month}? It deletes {_content(found)} for good.", is_sure=is_sure)
        _run(database, end)
    console.info(
        f"{month} is dropped, with {_content(found)}",
        event="month_dropped",
        month=month,
        rows=found.rows,
        bytes=found.bytes,
    )


@contextmanager
def _owner_database(settings: Settings) -> Iterator[Settings]:
    with as_owner(settings) as owner, provide_database(owner) as database:
        yield database


def _run(settings: Settings, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Return what a coroutine function returns for a session of the owner."""

    async def run() -> T:
        async with owner_session(settings) as session:
            return await work(session)

    return signals.run(run())


async def _require_owner(session: AsyncSession) -> None:
    why_not = await partitions.why_not_owner(session)
    if why_not is not None:
        raise ConfigurationError(f"{why_not} Then run the command again.")


def _check(month: str) -> None:
    if not _MONTH.fullmatch(month):
        raise typer.BadParameter("Give a month as 2026-11.")


def _find(settings: Settings, month: str) -> Partition:
    """Return a past month. Raises `ConfigurationError` for another, or if the role may not."""

    async def find(session: AsyncSession) -> tuple[datetime, list[Partition]]:
        await _require_owner(session)
        coverage = await partitions.find_coverage(session)
        return coverage.now, await partitions.find_partitions(session)

    now, found = _run(settings, find)
    partition = next((one for one in found if one.month == month), None)
    if partition is None:
        raise ConfigurationError(
            f"There is no month {month}. `iris-api partitions list` shows them all."
        )
    if partition.ends_at > now:
        raise ConfigurationError(
            f"{month} has not ended: predictions are stored there. Only past months can be "
            "detached or dropped."
        )
    return partition


def _confirm(question: str, *, is_sure: bool) -> None:
    if not is_sure:
        typer.confirm(f"{question} Go on?", abort=True, err=True)


def _content(partition: Partition) -> str:
    return f"about {partition.rows:,} predictions, {partition.bytes:,} bytes"


def _as_text(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d}"
