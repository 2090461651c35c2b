"""Group commit: one transaction stores the predictions of many requests.

A commit costs a round trip and a flush of the write-ahead log to disk, for one row as for hundreds.
So the rows that arrive while a group is being committed form the next group. A caller gets its
result after its own group has committed, never before.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, TypeVar

import asyncpg
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from iris_api.batching import Batcher, CancelledInFlight, CancelledWhileStoring
from iris_api.callers import Caller
from iris_api.database.failures import is_refusal_of_a_row, problem_of_write
from iris_api.database.transactions import return_to_pool
from iris_api.errors import DatabaseUnavailable, OutcomeUnknown, Problem
from iris_api.iris import ClassPrediction, Row
from iris_api.observability.metrics import Metrics
from iris_api.recording.idempotent import (
    KeyFailure,
    Outcome,
    copy_rows_once,
    find_key_failure,
    insert_keyed_group,
)
from iris_api.recording.inserts import (
    NewPrediction,
    StoredPrediction,
    copy_rows,
    insert_group,
    insert_one,
)

T = TypeVar("T")

_REMEMBERED_SECONDS = 3.0


class Recorder:
    """Stores predictions durably, many at a time.

    ``max_group`` and ``max_waiting`` are in rows, ``max_wait`` in seconds, ``max_in_flight`` in
    groups.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        max_group: int,
        max_waiting: int,
        max_wait_seconds: float,
        max_in_flight: int,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._recent_failure: tuple[float, Problem] | None = None
        self._batcher: Batcher[NewPrediction, StoredPrediction] = Batcher(
            self._commit,
            max_batch=max_group,
            max_waiting=max_waiting,
            max_wait_seconds=max_wait_seconds,
            max_in_flight=max_in_flight,
        )

    @property
    def waiting_rows(self) -> int:
        """How many rows of `record` wait for a group."""
        return self._batcher.waiting

    async def record(self, prediction: NewPrediction) -> StoredPrediction:
        """Store the row in a group; return when PostgreSQL has committed it.

        Raises `Overloaded` where too many rows wait, or this one too long; `DatabaseUnavailable` or
        `SchemaOutdated` where PostgreSQL cannot store it; `OutcomeUnknown` where PostgreSQL did not
        say whether it committed; `IdempotencyKeyReused`; and `NotStored` where PostgreSQL refuses
        this row. A cancelled caller gets `CancelledWhileStoring` where its row may still be stored.
        """
        try:
            return await self._batcher.submit(prediction)
        except CancelledInFlight as error:
            raise CancelledWhileStoring from error

    async def record_all(
        self,
        caller: Caller,
        rows: Sequence[Row],
        answers: Sequence[ClassPrediction],
        key: str | None = None,
    ) -> list[StoredPrediction]:
        """Store the rows in a transaction of their own; return when PostgreSQL has committed it.

        If the client has used the Idempotency-Key before, return what was stored then, or raise
        `IdempotencyKeyReused`. Other failures are those of `record`.
        """

        def new() -> Iterator[NewPrediction]:
            return (NewPrediction(caller, *pair) for pair in zip(rows, answers, strict=True))

        def store(connection: PoolProxiedConnection) -> Awaitable[list[StoredPrediction]]:
            if key is None:
                return copy_rows(connection, new, len(rows), caller.id_sequence)
            return copy_rows_once(connection, new, rows, caller, key)

        stored = await self._on_connection("batch", store)
        if stored[0].replayed is None:
            self._metrics.count_predictions((one.label, one.model_version) for one in answers)
        return stored

    def recent_failure(self) -> Problem | None:
        """Return why storing last failed although PostgreSQL could be reached, or None.

        Expires after 3 s: a service that is not ready gets no requests, so no success could clear
        it.
        """
        if self._recent_failure is None:
            return None
        failed_at, problem = self._recent_failure
        return problem if time.monotonic() <= failed_at + _REMEMBERED_SECONDS else None

    async def aclose(self) -> None:
        """Refuse new rows; return when all groups of earlier rows have ended."""
        await self._batcher.aclose()

    async def _on_connection(
        self,
        kind: Literal["group", "batch"],
        store: Callable[[PoolProxiedConnection], Awaitable[list[T]]],
    ) -> list[T]:
        """Return what ``store`` returns for a pooled connection; raise errors as their problem."""
        try:
            connection = await self._connect()
            before = self._recent_failure
            started = time.perf_counter()
            try:
                stored = await store(connection)
            except Exception as error:
                self._record_failure(error)
                raise
            finally:
                self._metrics.observe_commit(kind, time.perf_counter() - started)
                return_to_pool(connection)
        except Exception as error:
            key_failure = find_key_failure(error)
            problem = problem_of_write(error) if key_failure is None else key_failure.problem
            if problem is None or problem is error:
                raise
            raise problem from error
        if self._recent_failure is before:
            self._recent_failure = None
        return stored

    async def _connect(self) -> PoolProxiedConnection:
        started = time.perf_counter()
        try:
            # The pool's own connection: SQLAlchemy's wrapper costs a lone caller 45 us.
            return await self._engine.raw_connection()
        finally:
            self._metrics.observe_pool_wait(time.perf_counter() - started)

    def _record_failure(self, error: Exception) -> None:
        problem = problem_of_write(error)
        is_of_one_client = find_key_failure(error) is not None
        if isinstance(problem, (DatabaseUnavailable, OutcomeUnknown)) and not is_of_one_client:
            self._recent_failure = time.monotonic(), problem

    async def _commit(self, group: Sequence[NewPrediction]) -> list[StoredPrediction | Exception]:
        outcomes = await self._on_connection(
            "group", lambda connection: self._insert(connection, group)
        )
        new = [
            row
            for row, outcome in zip(group, outcomes, strict=True)
            if isinstance(outcome, StoredPrediction) and outcome.replayed is None
        ]
        if new:
            self._metrics.observe_group(len(new))
        self._metrics.count_predictions((row.answer.label, row.answer.model_version) for row in new)
        return outcomes

    async def _insert(
        self, connection: PoolProxiedConnection, group: Sequence[NewPrediction]
    ) -> list[StoredPrediction | Exception]:
        """Commit the group, except for rows that PostgreSQL refuses.

        If a key is at fault, the rows that it does not affect are stored. If PostgreSQL refuses a
        row without naming it, the group is halved until that row is alone.
        """
        try:
            return [*await _store(connection, group)]
        except asyncpg.PostgresError as error:
            key_failure = find_key_failure(error)
            if key_failure is not None:
                return await self._insert_without(connection, group, key_failure)
            if not is_refusal_of_a_row(error):
                raise
            if len(group) == 1:
                return [problem_of_write(error) or error]
            middle = len(group) // 2
            return [
                *await self._insert_part(connection, group[:middle]),
                *await self._insert_part(connection, group[middle:]),
            ]

    async def _insert_without(
        self,
        connection: PoolProxiedConnection,
        group: Sequence[NewPrediction],
        failure: KeyFailure,
    ) -> list[StoredPrediction | Exception]:
        """Commit the rows that the failure does not affect; it affects at least one."""
        others = [new for new in group if not failure.affects(new)]
        outcomes = iter(await self._insert_part(connection, others) if others else ())
        return [failure.problem if failure.affects(new) else next(outcomes) for new in group]

    async def _insert_part(
        self, connection: PoolProxiedConnection, part: Sequence[NewPrediction]
    ) -> list[StoredPrediction | Exception]:
        """Commit a part. Its failure is that of its rows only: other parts may be committed."""
        try:
            return await self._insert(connection, part)
        except Exception as error:  # noqa: BLE001, each caller of this part gets it
            self._record_failure(error)
            return [problem_of_write(error) or error] * len(part)


async def _store(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> Sequence[Outcome]:
    """Insert and commit a group, all or none, by the cheapest statement that can store it."""
    if any(row.idempotency_key is not None for row in group):
        return await insert_keyed_group(connection, group)
    if len(group) == 1:
        return await insert_one(connection, group[0])
    if any(row.caller.id_sequence is not None for row in group):
        return await insert_keyed_group(connection, group)
    return await insert_group(connection, group)
