import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iris_api.observability.metrics import MULTIPROCESS_VARIABLE, Metrics, forget_dead_processes

WORKER = """
import sys
from iris_api.observability.metrics import Metrics
metrics = Metrics()
metrics.count_predictions([("setosa", "a-1")] * 2 + [("virginica", "a-1")])
metrics.inference_duration.observe(0.5)
metrics.connections_in_use.set(3)
metrics.connections_limit.set(8)
print("ready", flush=True)
sys.stdin.read()
sys.stdout.write(metrics.render().decode())
"""


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted; it renders what it sees and ends when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, MULTIPROCESS_VARIABLE: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def sample(text: str, name: str, **labels: str) -> float | None:
    """The value of the one sample with this name and these labels."""
    values = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(values) <= 1
    return values[0] if values else None


def test_predictions_are_counted_by_label_and_model(metrics: Metrics) -> None:
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


def test_two_applications_do_not_share_their_metrics(metrics: Metrics) -> None:
    metrics.count_predictions([("setosa", "a-1")])
    assert b"setosa" not in Metrics().render()


def test_every_instrument_is_rendered_before_its_first_use(metrics: Metrics) -> None:
    families = text_string_to_metric_families(metrics.render().decode())
    assert {family.name for family in families} >= {
        "iris_http_requests",
        "iris_http_request_duration_seconds",
        "iris_inference_duration_seconds",
        "iris_predictions",
        "iris_database_connections_in_use",
        "iris_database_connections_limit",
    }


def test_the_workers_values_are_summed_and_a_dead_ones_gauges_are_forgotten(
    tmp_path: Path,
) -> None:
    with worker(tmp_path) as first:
        with worker(tmp_path) as second:
            both = second.communicate()[0]
        alone = first.communicate()[0]
    for text in (both, alone):
        counted = sample(text, "iris_predictions_total", label="setosa", model_version="a-1")
        assert counted == 4
        assert sample(text, "iris_inference_duration_seconds_count") == 2
    for name, value in (("in_use", 3), ("limit", 8)):
        assert sample(both, f"iris_database_connections_{name}") == 2 * value
        assert sample(alone, f"iris_database_connections_{name}") == value


def test_a_worker_that_has_only_created_its_files_spoils_no_scrape(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for kind in ("counter", "histogram", "gauge_livesum"):
            (tmp_path / f"{kind}_{os.getpid()}.db").touch()
        (tmp_path / "counter_0.db").symlink_to("nowhere")  # listed, and gone when it is looked at
        text = process.communicate()[0]
        assert process.returncode == 0
    assert sample(text, "iris_database_connections_limit") == 8


@pytest.fixture
def gauge_of_a_dead_process(tmp_path: Path) -> Path:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gauge = tmp_path / f"gauge_livesum_{process.pid}.db"
    gauge.touch()
    return gauge


def test_the_counts_of_a_dead_process_stay(gauge_of_a_dead_process: Path) -> None:
    folder, pid = gauge_of_a_dead_process.parent, gauge_of_a_dead_process.stem.split("_")[-1]
    counter = folder / f"counter_{pid}.db"
    counter.touch()
    forget_dead_processes(folder)
    assert list(folder.iterdir()) == [counter]


def test_a_process_of_another_user_is_alive(
    monkeypatch: pytest.MonkeyPatch, gauge_of_a_dead_process: Path
) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    forget_dead_processes(gauge_of_a_dead_process.parent)
    assert gauge_of_a_dead_process.exists()


def test_two_scrapes_may_forget_the_same_process(
    monkeypatch: pytest.MonkeyPatch, gauge_of_a_dead_process: Path
) -> None:
    def lose_the_race(path: str) -> None:
        Path(path).unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "remove", lose_the_race)
    forget_dead_processes(gauge_of_a_dead_process.parent)
    assert not gauge_of_a_dead_process.exists()
