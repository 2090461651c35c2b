"""The Prometheus metrics, one registry for each application."""

import functools
import os
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, ParamSpec

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from iris_api.observability.shared_files import (
    FOLDER_VARIABLE,
    AllWorkers,
    claim_files,
    share_nothing,
)

P = ParamSpec("P")
_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 10_000)
log = structlog.get_logger("iris_api")


def _recording(
    record: Callable[Concatenate["Metrics", P], None],
) -> Callable[Concatenate["Metrics", P], None]:
    """Make a recording method never raise: its caller may just have committed a row."""

    @functools.wraps(record)
    def guarded(self: "Metrics", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            record(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001, no failure may undo the caller's work
            self.note_failure(error)

    return guarded


class Metrics:
    """The service's metrics, and their rendering. No recording method ever raises."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._define_requests(registry)
        self._define_inference(registry)
        self._define_database(registry)
        self.failures = Counter(
            "iris_metrics_failures",
            "Values, or lines of the access log, that could not be recorded",
            registry=registry,
        )
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._logged: set[tuple[type[Exception], int | None]] = set()

    def _define_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "iris_http_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "iris_http_request_duration_seconds",
            "From the request's head to the end of its answer",
            ["method", "route"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.connections_refused = Counter(
            "iris_connections_refused",
            "Clients' connections that were ended beside the application, by the problem's slug",
            ["reason"],
            registry=registry,
        )

    def _define_inference(self, registry: CollectorRegistry) -> None:
        self.inference_duration = Histogram(
            "iris_inference_duration_seconds",
            "One call of the model, in its thread",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.inference_rows = Histogram(
            "iris_inference_rows",
            "Rows that one call of the model answered",
            buckets=_SIZE_BUCKETS,
            registry=registry,
        )
        self.predictions = Counter(
            "iris_predictions",
            "Predictions committed",
            ["label", "model_version"],
            registry=registry,
        )

    def _define_database(self, registry: CollectorRegistry) -> None:
        self.group_rows = Histogram(
            "iris_group_commit_rows",
            "Predictions that one transaction committed",
            buckets=_SIZE_BUCKETS,
            registry=registry,
        )
        self.connections_in_use = Gauge(
            "iris_database_connections_in_use",
            "Connections that are checked out of the pool",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.connections_limit = Gauge(
            "iris_database_connections_limit",
            "The pool's size",
            multiprocess_mode="livesum",
            registry=registry,
        )

    @_recording
    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request and its time; method and route come from small fixed sets."""
        key = (method, route, status)
        instruments = self._of_request.get(key)
        if instruments is None:  # looking up labels costs more than counting
            instruments = self._of_request[key] = (
                self.requests.labels(method, route, status),
                self.request_duration.labels(method, route),
            )
        count, duration = instruments
        count.inc()
        duration.observe(seconds)

    @_recording
    def observe_inference(self, seconds: float, rows: int) -> None:
        """Record one call of the ML model."""
        self.inference_duration.observe(seconds)
        self.inference_rows.observe(rows)

    @_recording
    def observe_group(self, rows: int) -> None:
        """Record one transaction of a group commit."""
        self.group_rows.observe(rows)

    @_recording
    def count_predictions(self, predictions: Iterable[tuple[str, str | None]]) -> None:
        """Count committed predictions, each given as label and ML model version."""
        for (label, model_version), count in Tally(predictions).items():
            self.predictions.labels(label, model_version or "").inc(count)

    @_recording
    def count_refused_connection(self, reason: str) -> None:
        """Count a client's connection that the server ended; ``reason`` is the problem's slug."""
        self.connections_refused.labels(reason).inc()

    @_recording
    def connection_checked_out(self) -> None:
        """Count a connection that was checked out of the database pool."""
        self.connections_in_use.inc()

    @_recording
    def connection_checked_in(self) -> None:
        """Count a connection that is back in the database pool."""
        self.connections_in_use.dec()

    @_recording
    def set_connections_limit(self, size: int) -> None:
        """Record the size of the database pool, in connections."""
        self.connections_limit.set(size)

    def note_failure(self, error: Exception) -> None:
        """Count a failure to record, and log each kind once. Never raises."""
        with suppress(Exception):
            self.failures.inc()
        kind = type(error), getattr(error, "errno", None)
        if kind not in self._logged:
            self._logged.add(kind)
            with suppress(Exception):
                reason = f"{type(error).__name__}: {error}"
                log.warning("metrics_failed", reason=reason, exc_info=error)

    def render(self) -> bytes:
        """The metrics of all workers, or if not shared, of this one, in Prometheus' text format."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is not None:
            try:
                everything = CollectorRegistry()
                everything.register(AllWorkers(Path(folder)))
                return generate_latest(everything)
            except Exception as error:  # noqa: BLE001, the folder is gone, or a file is corrupt
                self.note_failure(error)
        return generate_latest(self.registry)


def share_metrics() -> None:
    """Prepare to share metrics with other workers, in the folder of `FOLDER_VARIABLE`, if set.

    Opens all files now: space or file descriptors may run out later. If it fails, this process
    keeps its metrics in its own memory, and logs a warning.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return
    try:
        claim_files(Path(folder))
        Metrics()
    except Exception as error:  # noqa: BLE001, a worker without shared metrics still serves
        share_nothing()
        warn_of_unshared_metrics(folder, error)


def warn_of_unshared_metrics(folder: str, error: Exception) -> None:
    """Log why each scrape gets the values of only one worker."""
    log.warning(
        "metrics_not_shared",
        folder=folder,
        reason=f"{type(error).__name__}: {error}",
        hint="/metrics shows the values of whichever worker answers. Free space in the folder, or "
        "set TMPDIR to another one, and start the service again.",
    )
