"""The classifier in threads of its own, so that the event loop stays free."""

import time
from collections.abc import Sequence

import numpy as np
from anyio import CapacityLimiter, to_thread

from iris_api.inference.classifier import Classifier, ClassPrediction
from iris_api.observability.metrics import Metrics

Row = tuple[float, float, float, float]


class InferenceEngine:
    """Runs a `Classifier` in at most ``threads`` threads at a time.

    The bound is the engine's own: a slow model does not take threads from the rest of the service.
    """

    def __init__(self, classifier: Classifier, *, threads: int, metrics: Metrics) -> None:
        self.classifier = classifier
        self._limiter = CapacityLimiter(threads)
        self._duration = metrics.inference_duration

    async def predict(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        """Classify the rows, in order. What the classifier raises comes through.

        A caller that is cancelled while its call runs is let go when the call has ended, for a
        thread cannot be stopped.
        """
        return await to_thread.run_sync(self._predict, rows, limiter=self._limiter)

    def _predict(self, rows: Sequence[Row]) -> list[ClassPrediction]:
        started = time.perf_counter()
        try:
            return self.classifier.predict(np.array(rows, dtype=np.float64))
        finally:
            self._duration.observe(time.perf_counter() - started)
