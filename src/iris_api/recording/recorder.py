"""Group commit: one transaction stores the predictions of many requests.

A commit costs a round trip and a flush of the write-ahead log to disk, for one row as for hundreds.
So the rows that arrive while a group is being committed form the next group. A caller gets its
result after its own group has committed, never before.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, TypeVar

import asyncpg
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from iris_api.batching import Batcher, CancelledInFlight, CancelledWhileStoring
from iris_api.database.advice import RETRY_HINT
from iris_api.database.failures import (
    is_refusal_of_a_row,
    is_unknown_name,
    is_without_partition,
    problem_of_write,
)
from iris_api.database.names import ensure_names
from iris_api.database.partitions import PartitionHorizon
from iris_api.database.session import create_session_factory
from iris_api.database.transactions import return_to_pool
from iris_api.errors import DatabaseUnavailable, OutcomeUnknown, Problem
from iris_api.observability.metrics import Metrics
from iris_api.recording.idempotent import (
    copy_rows_once,
    insert_by_cheapest,
    problem_of_key,
)
from iris_api.recording.inserts import (
    UnknownNameError,
    copy_rows,
    require_labels,
)
from iris_api.recording.rows import NewBatch, NewPrediction, StoredPrediction

T = TypeVar("T")

_REMEMBERED_SECONDS = 3.0
_NAME_GONE = f"A name was taken out of clients or models. {RETRY_HINT}"


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
        horizon: PartitionHorizon,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._new_session = create_session_factory(engine)
        self._checked_versions: set[str | None] = {None}
        self._horizon = horizon
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

    async def record_all(self, batch: NewBatch) -> list[StoredPrediction]:
        """Store the rows in a transaction of their own; return when PostgreSQL has committed it.

        If the client has used the Idempotency-Key before, return what was stored then, or raise
        `IdempotencyKeyReused`. Other failures are those of `record`.
        """
        first = next(batch.predictions())

        async def store(connection: PoolProxiedConnection) -> list[StoredPrediction]:
            await self._check_labels(connection, [first])
            if batch.idempotency_key is None:
                return await copy_rows(connection, batch)
            return await copy_rows_once(connection, batch, batch.idempotency_key)

        try:
            stored = await self._on_connection("batch", store)
        except UnknownNameError:
            await self._name(first)
            try:
                stored = await self._on_connection("batch", store)
            except UnknownNameError as error:
                raise DatabaseUnavailable(_NAME_GONE) from error
        if stored[0].replayed is None:
            self._metrics.count_predictions(
                (answer.label, answer.model_version) for answer in batch.answers
            )
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

    async def _name(self, new: NewPrediction) -> None:
        """Commit the client and the ML model of this row, which may be known already."""
        answer = new.answer
        labels = list(answer.probabilities or ())
        try:
            async with self._new_session() as session:
                await ensure_names(session, new.caller.client, answer.model_version, labels)
        except Exception as error:
            self._record_failure(error)
            raise

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
            problem = problem_of_key(error) or problem_of_write(error)
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
        if is_without_partition(error):
            self._horizon.note_missing_partition()
        problem = problem_of_write(error)
        is_of_one_key = problem_of_key(error) is not None
        if isinstance(problem, (DatabaseUnavailable, OutcomeUnknown)) and not is_of_one_key:
            self._recent_failure = time.monotonic(), problem

    async def _commit(self, group: Sequence[NewPrediction]) -> list[StoredPrediction | Exception]:
        outcomes = await self._insert_group(group)
        await self._name_and_insert(group, outcomes)
        new = [
            row
            for row, outcome in zip(group, outcomes, strict=True)
            if isinstance(outcome, StoredPrediction) and outcome.replayed is None
        ]
        if new:
            self._metrics.observe_group(len(new))
        self._metrics.count_predictions((row.answer.label, row.answer.model_version) for row in new)
        return outcomes

    async def _name_and_insert(
        self, group: Sequence[NewPrediction], outcomes: list[StoredPrediction | Exception]
    ) -> None:
        """Commit the rows that are an `UnknownNameError`; replace these outcomes.

        Those of each client and ML model apart, so a failure to name them is that of no others.
        """
        unknown: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
        for place, (new, outcome) in enumerate(zip(group, outcomes, strict=True)):
            if isinstance(outcome, UnknownNameError):
                unknown[new.caller.client, new.answer.model_version].append(place)
        for places in unknown.values():
            part = [group[place] for place in places]
            try:
                await self._name(part[0])
                named = await self._insert_group(part)
            except Exception as error:  # noqa: BLE001, each caller of these rows gets it
                named = [error] * len(part)
            for place, outcome in zip(places, named, strict=True):
                is_gone = isinstance(outcome, UnknownNameError)
                outcomes[place] = DatabaseUnavailable(_NAME_GONE) if is_gone else outcome

    async def _insert_group(
        self, group: Sequence[NewPrediction]
    ) -> list[StoredPrediction | Exception]:
        async def store(connection: PoolProxiedConnection) -> list[StoredPrediction | Exception]:
            await self._check_labels(connection, group)
            return await self._insert(connection, group)

        return await self._on_connection("group", store)

    async def _check_labels(
        self, connection: PoolProxiedConnection, rows: Iterable[NewPrediction]
    ) -> None:
        """Before a version's first rows of this process, look whether ``models`` has its labels."""
        for new in rows:
            answer = new.answer
            if answer.model_version not in self._checked_versions:
                await require_labels(connection, answer)
                self._checked_versions.add(answer.model_version)

    async def _insert(
        self, connection: PoolProxiedConnection, group: Sequence[NewPrediction]
    ) -> list[StoredPrediction | Exception]:
        """Commit the group, except for rows that PostgreSQL refuses or whose names are unknown.

        If a key is at fault, the rows without one are stored. If PostgreSQL refuses a row without
        naming it, the group is halved until that row is alone.
        """
        try:
            return [*await insert_by_cheapest(connection, group)]
        except asyncpg.PostgresError as error:
            problem = problem_of_key(error)
            if problem is not None:
                return await self._insert_without_key(connection, group, problem)
            if is_unknown_name(error):
                return [UnknownNameError()] * len(group)
            if not is_refusal_of_a_row(error):
                raise
            if len(group) == 1:
                return [problem_of_write(error) or error]
            middle = len(group) // 2
            return [
                *await self._insert_part(connection, group[:middle]),
                *await self._insert_part(connection, group[middle:]),
            ]

    async def _insert_without_key(
        self, connection: PoolProxiedConnection, group: Sequence[NewPrediction], problem: Problem
    ) -> list[StoredPrediction | Exception]:
        """Commit the rows without a key; the problem is that of the others, at least one."""
        others = [new for new in group if new.idempotency_key is None]
        outcomes = iter(await self._insert_part(connection, others) if others else ())
        return [next(outcomes) if new.idempotency_key is None else problem for new in group]

    async def _insert_part(
        self, connection: PoolProxiedConnection, part: Sequence[NewPrediction]
    ) -> list[StoredPrediction | Exception]:
        """Commit a part. Its failure is that of its rows only: other parts may be committed."""
        try:
            return await self._insert(connection, part)
        except Exception as error:  # noqa: BLE001, each caller of this part gets it
            self._record_failure(error)
            return [problem_of_write(error) or error] * len(part)
