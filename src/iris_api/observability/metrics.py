"""The Prometheus metrics, one registry for each application."""

import asyncio
import functools
import os
from collections import Counter as Tally
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from iris_api.observability.instruments import Instruments
from iris_api.observability.shared_files import (
    FOLDER_VARIABLE,
    AllWorkers,
    claim_files,
    share_nothing,
)

P = ParamSpec("P")
_SECONDS_BETWEEN_READINGS = 1.0
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


class Metrics(Instruments):
    """The service's metrics, and their rendering. No recording method ever raises."""

    def __init__(self) -> None:
        super().__init__()
        self._sources: list[tuple[Gauge, Callable[[], float]]] = []
        self._model: Gauge | None = None
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._logged: set[tuple[type[Exception], int | None]] = set()

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
    def observe_pool_wait(self, seconds: float) -> None:
        """Record how long a group or a batch waited for a connection."""
        self.pool_wait.observe(seconds)

    @_recording
    def observe_commit(self, kind: Literal["group", "batch"], seconds: float) -> None:
        """Record how long storing a group or a batch took, from its connection to its end."""
        self.commit_duration.labels(kind).observe(seconds)

    @_recording
    def count_problem(self, problem: str) -> None:
        """Count a request that was answered with a problem, given as its slug."""
        self.problems.labels(problem).inc()

    @_recording
    def count_refused_connection(self, reason: str) -> None:
        """Count a client's connection that the server ended; ``reason`` is the problem's slug."""
        self.connections_refused.labels(reason).inc()

    @_recording
    def set_ready(self, is_ready: bool) -> None:  # noqa: FBT001, named by the method
        """Record the answer of ``/readyz``."""
        self.ready.set(is_ready)
        self.ready_at.set_to_current_time()

    @_recording
    def set_model(self, version: str, sha256: str) -> None:
        """Record which ML model is served from now on."""
        if self._model is not None:
            self._model.set(0)
        self._model = self.model_info.labels(version, sha256)
        self._model.set(1)

    def read_at_scrape(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Read the gauge's value at each scrape: to count each change would cost each request."""
        self._sources.append((gauge, value))

    @_recording
    def read_gauges(self) -> None:
        """Set the gauges of `read_at_scrape`."""
        for gauge, value in self._sources:
            gauge.set(value())

    async def watch(self) -> None:
        """Read the gauges each second, as another worker may answer the scrape. Never returns."""
        while True:
            self.read_gauges()
            await asyncio.sleep(_SECONDS_BETWEEN_READINGS)

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
        self.read_gauges()
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is not None:
            try:
                everything = CollectorRegistry()
                for collector in (self.platform, self.build, AllWorkers(Path(folder))):
                    everything.register(collector)
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
