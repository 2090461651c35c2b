"""Checks whether the database would store a prediction; concurrent callers share a check."""

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from pydantic import BaseModel, Field

from iris_api.batching import Batcher
from iris_api.database.advice import without_storing
from iris_api.database.causes import log_cause
from iris_api.database.health import ping
from iris_api.database.migrations import SchemaCheck
from iris_api.database.partitions import PartitionHorizon, find_coverage
from iris_api.database.session import SessionFactory
from iris_api.errors import Problem, SchemaOutdated
from iris_api.recording.trial import try_to_store


class Check(BaseModel):
    """The state of one part."""

    status: Literal["ok", "failed", "unknown"] = Field(
        description="`unknown` where another part's failure hides it"
    )
    detail: str = Field(description="What was found, and what to do about it")


Checks: TypeAlias = dict[str, Check]
_ANSWERS = "PostgreSQL answers."
_FEW_MONTHS = 3


class DatabaseCheck:
    """Finds the state of the database and of its schema.

    Callers that arrive during a check share the next one, so checks use at most one connection.
    ``recent_failure`` returns the problem for which predictions were not stored just now, or None.
    Each check moves ``horizon``. ``timeout_seconds`` bounds one check.
    """

    def __init__(
        self,
        session_factory: SessionFactory,
        recent_failure: Callable[[], Problem | None],
        horizon: PartitionHorizon,
        *,
        timeout_seconds: float,
    ) -> None:
        self._session_factory = session_factory
        self._recent_failure = recent_failure
        self._horizon = horizon
        self._timeout_seconds = timeout_seconds
        self._find_revision = SchemaCheck()
        self._batcher: Batcher[None, Checks] = Batcher(
            self._answer, max_batch=sys.maxsize, max_waiting=sys.maxsize, max_wait_seconds=math.inf
        )

    async def __call__(self) -> Checks:
        """Return the states of ``database`` and ``schema``, from a check begun after the call."""
        return await self._batcher.submit(None)

    async def aclose(self) -> None:
        """Refuse new calls; return when all earlier ones have their results."""
        await self._batcher.aclose()

    async def _answer(self, callers: Sequence[None]) -> list[Checks]:
        """Run one check, with a timeout: a frozen or unreachable database does not respond."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                checks = await self._find()
        except TimeoutError:
            checks = _failed(
                f"PostgreSQL did not answer in {self._timeout_seconds:g} s, or all connections to "
                "it are in use.",
                self._recent_failure(),
            )
        return [checks] * len(callers)

    async def _find(self) -> Checks:
        async with self._session_factory() as session:
            try:
                await ping(session)
            except Problem as problem:
                log_cause(problem)
                return _failed(problem.detail, self._recent_failure())
            recent_failure = self._recent_failure()
            if recent_failure is not None:
                return _failed(_ANSWERS, recent_failure)
            try:
                detail = f"At revision {await self._find_revision(session)}."
                self._horizon.move(await find_coverage(session))
                detail += _warning_of(self._horizon.months_ahead)
                await try_to_store(session)
            except SchemaOutdated as problem:
                log_cause(problem)
                schema = Check(status="failed", detail=problem.detail)
                return {"database": Check(status="ok", detail=_ANSWERS), "schema": schema}
            except Problem as problem:
                log_cause(problem)
                return _failed(f"{_ANSWERS} {problem.detail}", None)
            return {
                "database": Check(status="ok", detail=f"{_ANSWERS} It stores predictions."),
                "schema": Check(status="ok", detail=detail),
            }


def _warning_of(months_ahead: float) -> str:
    """Return a sentence to add where there are few months ahead."""
    if months_ahead >= _FEW_MONTHS:
        return ""
    found = f"Only {months_ahead} more months have" if months_ahead >= 0 else "This month has no"
    return (
        f" {found} partitions. Run `iris-api partitions ensure` as the owner of iris_predictions."
    )


def _failed(detail: str, recent_failure: Problem | None) -> Checks:
    """Return the checks of a failed database; a recent failure to store adds its detail."""
    if recent_failure is not None and recent_failure.detail != detail:
        detail += f" Predictions were not stored just now. {recent_failure.detail}"
    return {
        "database": Check(status="failed", detail=without_storing(detail)),
        "schema": Check(status="unknown", detail="The database did not say."),
    }
