"""Runs the classifier in its own threads, behind a `Batcher`, so the event loop is not blocked."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iris_api.batching import Batcher
from iris_api.errors import NotPredicted
from iris_api.inference.classifier import Classifier
from iris_api.iris import ClassPrediction, Row
from iris_api.observability.metrics import Metrics


class InferenceEngine:
    """Runs a `Classifier` in at most ``threads`` threads at a time.

    The threads are the engine's own: a slow ML model takes none from the rest of the service. One
    scikit-learn call costs about the same for one row as for hundreds, so rows that arrive during a
    call share the next one. ``max_batch`` and ``max_waiting`` are in rows, ``max_wait`` in seconds.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        threads: int,
        max_batch: int,
        max_waiting: int,
        max_wait_seconds: float,
        metrics: Metrics,
    ) -> None:
        self.classifier = classifier
        # concurrent.futures takes 40 us to a thread and back; anyio.to_thread takes 130, which a
        # lone caller would notice.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._metrics = metrics
        self._batcher: Batcher[Row, ClassPrediction] = Batcher(
            self._predict_each,
            max_batch=max_batch,
            max_waiting=max_waiting,
            max_wait_seconds=max_wait_seconds,
            max_in_flight=threads,
        )

    @property
    def waiting_rows(self) -> int:
        """How many rows of `predict` wait for a call of the ML model."""
        return self._batcher.waiting

    async def predict(self, row: Row) -> ClassPrediction:
        """Classify one row, within a batch. The classifier's exceptions propagate.

        Raises `Overloaded` if too many rows wait, if this one waited too long, or after `aclose`;
        `NotPredicted` if this row has no probabilities.
        """
        return await self._batcher.submit(row)

    async def predict_many(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        """Classify rows by one call, in order. The classifier's exceptions propagate.

        Raises `NotPredicted` if a row has no probabilities. A cancelled caller returns at once. A
        call that has begun runs to its end, because a thread cannot be stopped.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._predict, rows)

    async def aclose(self, *, cancel_queued: bool = True) -> None:
        """Refuse new rows, answer the accepted ones, and end the threads.

        Cancels calls of `predict_many` that wait for a thread, unless ``cancel_queued`` is false.
        """
        await self._batcher.aclose()
        self._threads.shutdown(wait=False, cancel_futures=cancel_queued)

    async def _predict_each(self, rows: Sequence[Row]) -> Sequence[ClassPrediction | Exception]:
        """Classify rows of several callers: a row for which the ML model fails, fails alone."""
        try:
            return await self.predict_many(rows)
        except NotPredicted as problem:
            failed = set(problem.items)
            others = [row for position, row in enumerate(rows) if position not in failed]
            answers = iter(await self.predict_many(others) if others else ())
            version = self.classifier.version
            return [
                NotPredicted(version) if position in failed else next(answers)
                for position in range(len(rows))
            ]
        except Exception as error:  # noqa: BLE001, its caller gets it
            if len(rows) == 1:
                return [error]
            middle = len(rows) // 2
            halves = rows[:middle], rows[middle:]
            return [one for half in halves for one in await self._predict_each(half)]

    def _predict(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        started = time.perf_counter()
        try:
            return self.classifier.predict(np.array(rows, dtype=np.float64))
        finally:
            self._metrics.observe_inference(time.perf_counter() - started, len(rows))
