"""The Prometheus metrics, one registry for each application.

With several workers, `PROMETHEUS_MULTIPROC_DIR` is set before this module is imported (the command
line does that), each worker writes its values there, and whichever answers a scrape adds them up.
"""

import os
from collections import Counter as Tally
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 10_000)


class Metrics:
    """The service's instruments, and their rendering."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "iris_http_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.request_duration = Histogram(
            "iris_http_request_duration_seconds",
            "From the request's head to the end of its answer",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.inference_duration = Histogram(
            "iris_inference_duration_seconds",
            "One call of the model, in its thread",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.inference_rows = Histogram(
            "iris_inference_rows",
            "Rows that one call of the model answered",
            buckets=_SIZE_BUCKETS,
            registry=self.registry,
        )
        self.group_rows = Histogram(
            "iris_group_commit_rows",
            "Predictions that one transaction committed",
            buckets=_SIZE_BUCKETS,
            registry=self.registry,
        )
        self.predictions = Counter(
            "iris_predictions",
            "Predictions committed",
            ["label", "model_version"],
            registry=self.registry,
        )
        self.connections_refused = Counter(
            "iris_connections_refused",
            "Clients' connections that were ended beside the application, by the problem's slug",
            ["reason"],
            registry=self.registry,
        )
        self.connections_in_use = Gauge(
            "iris_database_connections_in_use",
            "Connections that are checked out of the pool",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.connections_limit = Gauge(
            "iris_database_connections_limit",
            "The pool's size",
            multiprocess_mode="livesum",
            registry=self.registry,
        )

        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request and its time; method and route come from small fixed sets."""
        key = (method, route, status)
        instruments = self._of_request.get(key)
        if instruments is None:  # finding the children of labels costs more than counting
            instruments = self._of_request[key] = (
                self.requests.labels(method, route, status),
                self.request_duration.labels(method, route),
            )
        count, duration = instruments
        count.inc()
        duration.observe(seconds)

    def count_predictions(self, predictions: Iterable[tuple[str, str | None]]) -> None:
        """Count committed predictions, each given as its label and its model's version."""
        for (label, model_version), count in Tally(predictions).items():
            self.predictions.labels(label, model_version or "").inc(count)

    def render(self) -> bytes:
        """All values of all workers, in Prometheus' text format."""
        folder = os.environ.get(MULTIPROCESS_VARIABLE)
        if folder is None:
            return generate_latest(self.registry)
        forget_dead_processes(Path(folder))
        registry = CollectorRegistry()
        registry.register(_Workers(None, path=folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class _Workers(MultiProcessCollector):
    """All workers' values, a worker's that is only beginning among them or not."""

    def collect(self) -> Iterable[Metric]:
        """Pass over what is still without its size, which the library would not read."""
        files = [str(file) for file in Path(self._path).glob("*.db") if _is_written(file)]
        return self.merge(files)  # type: ignore[no-untyped-call, no-any-return]


def forget_dead_processes(folder: Path) -> None:
    """Drop the gauges of workers that are gone, which would count as alive for ever."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not _is_alive(pid):
            with suppress(FileNotFoundError):  # another worker's scrape was faster
                mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]


def _is_written(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # a dead worker's gauges, which another scrape has dropped
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
