import asyncio
import errno
import os
import platform
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tests.unit.metric_samples import findings_of_promtool, needs_promtool, sample

from iris_api import __version__
from iris_api.observability.metrics import Metrics

Record = Callable[[Metrics], None]


def read_gauges(metrics: Metrics) -> None:
    metrics.read_at_scrape(metrics.connections_in_use, int)
    metrics.read_gauges()


RECORDINGS: dict[str, tuple[str, Record]] = {
    "observe_request": ("requests", lambda one: one.observe_request("GET", "/", 200, 0.1)),
    "observe_inference": ("inference_rows", lambda one: one.observe_inference(0.1, 3)),
    "observe_group": ("group_rows", lambda one: one.observe_group(3)),
    "count_predictions": ("predictions", lambda one: one.count_predictions([("setosa", "a-1")])),
    "count_refused_connection": (
        "connections_refused",
        lambda one: one.count_refused_connection("overloaded"),
    ),
    "count_problem": ("problems", lambda one: one.count_problem("overloaded")),
    "observe_pool_wait": ("pool_wait", lambda one: one.observe_pool_wait(0.1)),
    "observe_commit": ("commit_duration", lambda one: one.observe_commit("group", 0.1)),
    "set_ready": ("ready", lambda one: one.set_ready(True)),
    "set_model": ("model_info", lambda one: one.set_model("a-1", "0" * 64)),
    "read_gauges": ("connections_in_use", read_gauges),
}
"""Each method of `Metrics` that records, the instrument that it uses, and a call of it."""


class Broken:
    """An instrument that raises whatever is done with it."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, _name: str) -> Callable[..., None]:
        def fail(*_arguments: object) -> None:
            raise self.error

        return fail


def test_count_predictions_counts_by_label_and_model_version(metrics: Metrics) -> None:
    metrics.count_predictions([("setosa", "a-1"), ("virginica", "a-1"), ("setosa", "a-1")])
    metrics.count_predictions([("setosa", None), ("setosa", "a-1")])
    text = metrics.render().decode()
    counted = {
        (label, version): sample(text, "iris_predictions_total", label=label, model_version=version)
        for label in ("setosa", "virginica")
        for version in ("a-1", "")
    }
    assert counted == {
        ("setosa", "a-1"): 3,
        ("setosa", ""): 1,
        ("virginica", "a-1"): 1,
        ("virginica", ""): None,
    }


def test_metrics_of_two_applications_are_separate(metrics: Metrics) -> None:
    metrics.count_predictions([("setosa", "a-1")])
    assert b"setosa" not in Metrics().render()


def test_metrics_render_shows_every_instrument_before_its_first_use(metrics: Metrics) -> None:
    families = text_string_to_metric_families(metrics.render().decode())
    assert {family.name for family in families} >= {
        "iris_http_requests",
        "iris_http_request_duration_seconds",
        "iris_inference_duration_seconds",
        "iris_predictions",
        "iris_database_connections_in_use",
        "iris_database_connections_limit",
        "iris_metrics_failures",
    }
    assert sample(metrics.render().decode(), "iris_metrics_failures_total") == 0


def test_metrics_render_has_the_process_and_the_build_and_no_created_series(
    metrics: Metrics,
) -> None:
    metrics.observe_request("GET", "/", 200, 0.1)
    text = metrics.render().decode()
    assert sample(text, "iris_worker_process_id") == os.getpid()
    assert (sample(text, "process_resident_memory_bytes") or 0) > 10_000_000
    assert (sample(text, "python_gc_collections_total", generation="0") or 0) > 0
    python = platform.python_version()
    assert sample(text, "iris_build_info", version=__version__, python=python) == 1
    assert "_created" not in text


@needs_promtool
def test_metrics_render_passes_promtool(metrics: Metrics) -> None:
    for _, record in RECORDINGS.values():
        record(metrics)
    assert findings_of_promtool(metrics.render().decode()) == ""


def test_metrics_set_model_sets_the_model_before_to_0(metrics: Metrics) -> None:
    metrics.set_model("a-1", "0" * 64)
    metrics.set_model("b-2", "1" * 64)
    metrics.set_model("a-1", "0" * 64)
    text = metrics.render().decode()
    assert sample(text, "iris_model_info", version="a-1", sha256="0" * 64) == 1
    assert sample(text, "iris_model_info", version="b-2", sha256="1" * 64) == 0


async def test_metrics_watch_reads_the_gauges_without_a_scrape(metrics: Metrics) -> None:
    read = asyncio.Event()

    def value() -> float:
        read.set()
        return 7

    metrics.read_at_scrape(metrics.connections_in_use, value)
    watch = asyncio.create_task(metrics.watch())
    async with asyncio.timeout(10):
        await read.wait()
    watch.cancel()
    assert metrics.registry.get_sample_value("iris_database_connections_in_use") == 7


def test_metrics_inference_duration_tells_tens_of_microseconds_apart(metrics: Metrics) -> None:
    metrics.observe_inference(30e-6, 1)
    metrics.observe_inference(60e-6, 1)
    counts = [
        metrics.registry.get_sample_value("iris_inference_duration_seconds_bucket", {"le": bound})
        for bound in ("2.5e-05", "5e-05", "0.0001")
    ]
    assert counts == [0, 1, 2]


def test_metrics_has_no_recording_method_without_a_test_of_its_failure() -> None:
    public = {name for name in vars(Metrics) if not name.startswith("_")}
    assert public - {"note_failure", "render", "read_at_scrape", "watch"} == RECORDINGS.keys()


@pytest.mark.parametrize("method", RECORDINGS)
@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files", "counter_1.db"), ValueError("odd")]
)
def test_metrics_with_a_broken_instrument_raise_nothing_log_once_and_count_failures(
    metrics: Metrics, method: str, error: Exception
) -> None:
    instrument, record = RECORDINGS[method]
    setattr(metrics, instrument, Broken(error))
    with capture_logs() as logs:
        for _ in range(3):
            record(metrics)
    [line] = logs
    assert (line["event"], line["log_level"]) == ("metrics_failed", "warning")
    assert line["reason"] == f"{type(error).__name__}: {error}"
    assert metrics.registry.get_sample_value("iris_metrics_failures_total") == 3


def test_metrics_note_failure_logs_each_kind_of_failure_once(metrics: Metrics) -> None:
    with capture_logs() as logs:
        for number in (errno.EMFILE, errno.ENOSPC, errno.EMFILE):
            metrics.note_failure(OSError(number, "failed"))
        metrics.note_failure(ValueError("odd"))
    assert len(logs) == 3


def test_metrics_note_failure_with_a_broken_log_and_counter_raises_nothing(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken(OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("iris_api.observability.metrics.log", broken)
    setattr(metrics, "failures", broken)  # noqa: B010, mypy would not take it as an instrument
    metrics.note_failure(ValueError("odd"))


def test_count_predictions_with_failing_rows_raises_nothing_and_counts_a_failure(
    metrics: Metrics,
) -> None:
    def rows() -> Iterator[tuple[str, str]]:
        yield "setosa", "a-1"
        raise ArithmeticError

    metrics.count_predictions(rows())
    assert metrics.registry.get_sample_value("iris_metrics_failures_total") == 1
