"""Keeps the months of iris_predictions: makes those ahead, drops those past IRIS_RETENTION."""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.failures import translates_failures
from iris_api.database.leases import lease
from iris_api.database.migrations import SchemaCheck
from iris_api.database.owner import owner_session
from iris_api.database.partitions import (
    PartitionHorizon,
    add_months,
    detach,
    drop,
    find_coverage,
    find_partitions,
    past_retention,
    why_not_owner,
)
from iris_api.database.session import SessionFactory
from iris_api.errors import IrisApiError, Problem
from iris_api.settings import Settings

_SECONDS_TO_FIRST_ROUND = 20.0
_SECONDS_BETWEEN_ROUNDS = 86_400.0
_SECONDS_TO_NEXT_TRY = 3600.0
"""After a round that failed, or that another process was at."""
_LEASE_SECONDS = 3600.0
"""Also the most that a round may take, so that it ends before its lease does."""
_SECONDS_BETWEEN_LOOKS = 60.0
log = structlog.get_logger("iris_api")


async def watch_horizon(session_factory: SessionFactory, horizon: PartitionHorizon) -> None:
    """Look each minute until when predictions have partitions, until cancelled.

    Each second while they have none, so that it is soon noticed when they have.
    """
    looked_at = time.monotonic()  # /readyz looks at the start
    while True:
        await asyncio.sleep(1)
        if horizon.is_passed or time.monotonic() >= looked_at + _SECONDS_BETWEEN_LOOKS:
            looked_at = time.monotonic()
            with suppress(Problem):  # which /readyz reports
                async with session_factory() as session:
                    horizon.move(await find_coverage(session))


async def keep_months(settings: Settings) -> None:
    """Make and drop months once a day, until cancelled.

    Every worker of every replica tries to; a lease lets one at a time do it, if its role may.
    """
    rounds = _Rounds(settings)
    pause = _SECONDS_TO_FIRST_ROUND
    while True:
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = _SECONDS_TO_NEXT_TRY
        try:
            if await rounds.run():
                pause = _SECONDS_BETWEEN_ROUNDS
        except IrisApiError as error:
            log.warning("months_not_kept", detail=str(error))
        except Exception:
            log.exception("months_not_kept")


class _Rounds:
    """Rounds of one process, which says once that its role owns no months."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._has_said_why = False
        self._require_schema = SchemaCheck()

    @translates_failures
    async def run(self) -> bool:
        """Make and drop months; return whether there is nothing more to do for a day."""
        async with owner_session(self._settings) as session:
            why_not = await why_not_owner(session)
            if why_not is not None:
                if not self._has_said_why:
                    log.warning("months_not_owned", detail=why_not)
                self._has_said_why = True
                return True
            await self._require_schema(session)  # rows that are being moved need all months
            async with (
                asyncio.timeout(_LEASE_SECONDS),
                lease(session, "months", seconds=_LEASE_SECONDS) as is_held,
            ):
                if is_held:
                    await _keep(session, self._settings.retention)
            return is_held


async def _keep(session: AsyncSession, retention: int | str) -> None:
    added = await add_months(session)
    if added:
        log.info("months_added", months=added)
    partitions = await find_partitions(session)
    for partition in partitions:
        if partition.state == "detaching":
            await detach(session, partition)
            log.info("month_detached", month=partition.month)
    if not isinstance(retention, int):
        return
    # A clock that is ahead must not cost data: both have to agree that a month is old.
    now = min((await find_coverage(session)).now, datetime.now(UTC))
    for partition in past_retention(partitions, now, retention):
        await detach(session, partition)
        await drop(session, partition)
        log.info(
            "month_dropped",
            month=partition.month,
            rows=partition.rows,
            bytes=partition.bytes,
        )
