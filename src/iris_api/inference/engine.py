"""The classifier in threads of its own, behind a `Batcher`, so that the event loop stays free."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iris_api.batching import Batcher
from iris_api.inference.classifier import Classifier
from iris_api.iris import ClassPrediction, Row
from iris_api.observability.metrics import Metrics


class InferenceEngine:
    """Runs a `Classifier` in at most ``threads`` threads at a time.

    The bound is the engine's own: a slow model does not take threads from the rest of the service.
    One call of scikit-learn costs about the same for one row as for hundreds, so the rows that
    arrive while a call runs are answered by one next call.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        threads: int,
        max_batch: int,
        max_waiting: int,
        max_wait: float,
        metrics: Metrics,
    ) -> None:
        self.classifier = classifier
        # A pool of concurrent.futures', for the hop to a thread and back takes it 40 us; it takes
        # anyio.to_thread 130, which a lone caller would notice.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="inference")
        self._metrics = metrics
        self._batcher: Batcher[Row, ClassPrediction] = Batcher(
            self.predict_many,
            max_batch=max_batch,
            max_waiting=max_waiting,
            max_wait=max_wait,
            max_in_flight=threads,
        )

    async def predict(self, row: Row) -> ClassPrediction:
        """Classify one row, within a batch. What the classifier raises comes through.

        Raises `Overloaded` where too many rows wait already.
        """
        return await self._batcher.submit(row)

    async def predict_many(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        """Classify rows by one call, in order. What the classifier raises comes through.

        A caller that is cancelled is let go at once; a call that has begun runs to its end, for a
        thread cannot be stopped.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._predict, rows)

    async def aclose(self, *, cancel_queued: bool = True) -> None:
        """Take no more rows, answer those that were taken, and end the threads.

        Calls of `predict_many` that wait for a thread are cancelled, unless ``cancel_queued`` is
        false.
        """
        await self._batcher.aclose()
        self._threads.shutdown(wait=False, cancel_futures=cancel_queued)

    def _predict(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        started = time.perf_counter()
        try:
            return self.classifier.predict(np.array(rows, dtype=np.float64))
        finally:
            self._metrics.observe_inference(time.perf_counter() - started, len(rows))
