"""Every metric: its name, help, labels and buckets. docs/observability.md lists them."""

import os
import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from iris_api import __version__
from iris_api.observability.shared_files import PROCESS_ID

_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_INFERENCE_BUCKETS = (
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
_DATABASE_BUCKETS = (
    100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0,
)  # fmt: skip
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 10_000)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more lines, which no one reads


class Instruments:
    """The instruments of one application, in a registry of their own.

    If workers share them, a gauge's ``multiprocess_mode`` says how those of all workers become one:
    ``livesum`` adds them up, ``livemostrecent`` takes the last one that was set, and ``liveall``
    keeps each, with the label ``worker``.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.platform = PlatformCollector(registry=registry)
        self.build = Info("iris_build", "This release of the service", registry=registry)
        self.build.info({"version": __version__, "python": platform.python_version()})
        self._define_process(registry)
        self._define_requests(registry)
        self._define_inference(registry)
        self._define_database(registry)
        self.failures = Counter(
            "iris_metrics_failures",
            "Values, or lines of the access log, that could not be recorded",
            registry=registry,
        )

    def _define_process(self, registry: CollectorRegistry) -> None:
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.process_id = Gauge(
            PROCESS_ID,
            "The number that the system gave to the process",
            multiprocess_mode="liveall",
            registry=registry,
        )
        self.process_id.set(os.getpid())
        self.ready = Gauge(
            "iris_ready",
            "1 if the last answer of /readyz was 200, else 0",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.ready_at = Gauge(
            "iris_ready_timestamp_seconds",
            "When /readyz gave its last answer, in seconds since 1970; 0 before the first",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )

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
        self.requests_in_flight = Gauge(
            "iris_http_requests_in_flight",
            "Requests that count against IRIS_MAX_IN_FLIGHT now",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.problems = Counter(
            "iris_http_problems",
            "Requests answered with a problem, by its slug",
            ["problem"],
            registry=registry,
        )
        self.connections_refused = Counter(
            "iris_connections_refused",
            "Clients' connections that were ended beside the application, by the problem's slug",
            ["reason"],
            registry=registry,
        )

    def _define_inference(self, registry: CollectorRegistry) -> None:
        self.model_info = Gauge(
            "iris_model_info",
            "1 for the ML model that is served, 0 for one that was served before",
            ["version", "sha256"],
            multiprocess_mode="liveall",
            registry=registry,
        )
        self.inference_duration = Histogram(
            "iris_inference_duration_seconds",
            "One call of the model, in its thread",
            buckets=_INFERENCE_BUCKETS,
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
        self.waiting_rows = Gauge(
            "iris_waiting_rows",
            "Rows of /predict that wait now, for the ML model or for the commit",
            ["queue"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.group_rows = Histogram(
            "iris_group_commit_rows",
            "Predictions that one transaction committed",
            buckets=_SIZE_BUCKETS,
            registry=registry,
        )
        self.commit_duration = Histogram(
            "iris_commit_duration_seconds",
            "Storing and committing one group or one batch, whether or not PostgreSQL could",
            ["kind"],
            buckets=_DATABASE_BUCKETS,
            registry=registry,
        )
        self.pool_wait = Histogram(
            "iris_database_pool_wait_seconds",
            "How long a group or a batch waited for a connection of the pool",
            buckets=_DATABASE_BUCKETS,
            registry=registry,
        )
        self.connections_in_use = Gauge(
            "iris_database_connections_in_use",
            "Connections that are checked out of the pool",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.months_ahead = Gauge(
            "iris_partition_months_ahead",
            "Months after the current one that have partitions; -1 where even that has none",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.connections_limit = Gauge(
            "iris_database_connections_limit",
            "The pool's size",
            multiprocess_mode="livesum",
            registry=registry,
        )
