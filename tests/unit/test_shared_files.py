"""Metrics that several workers share: in one folder, by files of fixed size and fixed number."""

import errno
import itertools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import values
from tests.unit.metric_samples import findings_of_promtool, needs_promtool, sample
from tests.unit.metric_workers import output_of, worker

from iris_api import __version__, errors
from iris_api.app import create_app
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import _KNOWN_METHODS
from iris_api.observability.shared_files import _BYTES, FOLDER_VARIABLE
from iris_api.settings import Settings

ALL_LABELS = """
import json, os, sys
from pathlib import Path
from iris_api.observability.metrics import Metrics, share_metrics
share_metrics()
metrics = Metrics()
requests, predictions, problems = json.load(sys.stdin)
for method, route, status in requests:
    metrics.observe_request(method, route, status, 0.1)
metrics.count_predictions(map(tuple, predictions))
for problem in problems:
    metrics.count_problem(problem)
    metrics.count_refused_connection(problem)
for version in {version for _, version in predictions}:
    metrics.set_model(version, "0" * 64)
for queue in ("inference", "commit"):
    metrics.waiting_rows.labels(queue).set(1)
for kind in ("group", "batch"):
    metrics.observe_commit(kind, 0.1)
metrics.observe_inference(0.1, 1)
metrics.observe_group(1)
assert metrics.failures._value.get() == 0
"""


def in_use(text: str) -> float | None:
    return sample(text, "iris_database_connections_in_use")


def counted(text: str) -> float | None:
    return sample(text, "iris_predictions_total", label="setosa", model_version="a-1")


def test_metrics_render_sums_all_workers_and_forgets_gauges_of_ended_workers(
    tmp_path: Path,
) -> None:
    with worker(tmp_path) as first:
        with worker(tmp_path) as second:
            both = output_of(second)
        alone = output_of(first)
    for text in (both, alone):
        assert counted(text) == 4
        assert sample(text, "iris_inference_duration_seconds_count") == 2
    for name, value in (("in_use", 3), ("limit", 8)):
        assert sample(both, f"iris_database_connections_{name}") == 2 * value
        assert sample(alone, f"iris_database_connections_{name}") == value


def test_metrics_render_has_the_process_and_the_model_of_each_worker(tmp_path: Path) -> None:
    with worker(tmp_path) as first:
        with worker(tmp_path) as second:
            both = output_of(second)
            ended = second.pid
        alone = output_of(first)
    for number, process in (("0", first.pid), ("1", ended)):
        assert sample(both, "iris_worker_process_id", worker=number) == process
        assert sample(both, "iris_model_info", worker=number, version="a-1", sha256="0" * 64) == 1
        assert (sample(both, "process_resident_memory_bytes", worker=number) or 0) > 10_000_000
    assert sample(alone, "iris_worker_process_id", worker="1") is None
    assert sample(alone, "process_resident_memory_bytes", worker="1") is None
    assert sample(alone, "process_resident_memory_bytes") is None


def test_metrics_render_says_once_which_release_and_python_all_workers_run(tmp_path: Path) -> None:
    with worker(tmp_path), worker(tmp_path) as second:
        text = output_of(second)
    python = platform.python_version()
    assert sample(text, "iris_build_info", version=__version__, python=python) == 1
    assert text.count("\npython_info{") == 1


def test_metrics_render_is_ready_as_the_last_worker_said(tmp_path: Path) -> None:
    with worker(tmp_path) as first:
        with worker(tmp_path, then="metrics.set_ready(True)") as second:
            assert sample(output_of(second), "iris_ready") == 1
        with worker(tmp_path, last="metrics.set_ready(False)") as second:
            assert sample(output_of(second), "iris_ready") == 0
        output_of(first)


@needs_promtool
def test_metrics_render_of_several_workers_passes_promtool(tmp_path: Path) -> None:
    with worker(tmp_path), worker(tmp_path) as second:
        assert findings_of_promtool(output_of(second)) == ""


def test_share_metrics_after_a_killed_worker_reuses_its_files_and_counts(
    tmp_path: Path,
) -> None:
    for _ in range(3):
        with worker(tmp_path) as process:
            process.kill()
    names = sorted(file.name for file in tmp_path.iterdir())
    with worker(tmp_path) as process:
        text = output_of(process)
    assert counted(text) == 8
    assert in_use(text) == 3
    assert names == sorted(f"{kind}_0.db" for kind in _BYTES)
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_metrics_render_with_empty_files_of_another_worker_ignores_them(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for kind in _BYTES:
            (tmp_path / f"{kind}_1.db").touch()
        (tmp_path / "counter_2.db").symlink_to("nowhere")  # listed, and gone when it is looked at
        text = output_of(process)
    assert sample(text, "iris_database_connections_limit") == 8


def test_share_metrics_reserves_the_full_size_of_its_files_at_start(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for kind, size in _BYTES.items():
            file = (tmp_path / f"{kind}_0.db").stat()
            assert (file.st_size, file.st_blocks * 512 >= size) == (size, True), kind
        output_of(process)


def test_share_metrics_files_have_room_for_all_label_sets(tmp_path: Path) -> None:
    """More than can occur: each method, for each route, with each status."""
    problems = [one for one in vars(errors).values() if hasattr(one, "status")]
    statuses = {0, 200, *(int(one.status) for one in problems)}
    app = create_app(Settings(auth="keys"))
    beside_openapi = {getattr(route, "path", "") for route in app.routes}
    routes = {"unmatched", *app.openapi()["paths"], *beside_openapi}
    assert {"/predictions/{prediction_id}", "/metrics", "/docs"} <= routes
    methods = {"other", *_KNOWN_METHODS}
    labels = ["setosa", "versicolor", "virginica"]
    versions = [f"linear-discriminant-{number:064}" for number in range(50)]
    sets = (
        list(itertools.product(methods, routes, statuses)),
        list(itertools.product(labels, versions)),
        [one.slug for one in problems if hasattr(one, "slug")],
    )
    subprocess.run(
        [sys.executable, "-c", ALL_LABELS],
        env={**os.environ, FOLDER_VARIABLE: str(tmp_path)},
        input=json.dumps(sets),
        text=True,
        check=True,
    )
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == {
        f"{kind}_0.db": size for kind, size in _BYTES.items()
    }


def test_share_metrics_with_a_full_disk_keeps_metrics_in_the_worker_and_warns(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stands for a full disk, which a fault test has."""
    logged: list[str] = []
    with worker(tmp_path, "sh", "-c", 'ulimit -f 8; exec "$@"', "sh", logged=logged) as process:
        text = output_of(process)
    assert counted(text) == 2
    assert in_use(text) == 3
    [line] = logged[:-1]
    for word in ("metrics_not_shared", str(tmp_path), f"[Errno {errno.EFBIG}]", "TMPDIR"):
        assert word in line


@pytest.mark.parametrize("spoil", ["a file in its place", "no parent", "a spoilt file"])
def test_share_metrics_with_an_unusable_folder_keeps_metrics_in_the_worker_and_warns(
    tmp_path: Path, spoil: str
) -> None:
    folder = tmp_path / "folder"
    if spoil == "a file in its place":
        folder.touch()
    elif spoil == "no parent":
        folder = folder / "of" / "nobody"
    else:
        folder.mkdir()
        (folder / "counter_0.db").write_bytes(b"\xff\0\0\0\0\0\0\0\xff\xff\xff\0" * 100)
    logged: list[str] = []
    with worker(folder, logged=logged) as process:
        text = output_of(process)
    assert counted(text) == 2
    assert "metrics_not_shared" in "".join(logged)


@pytest.mark.parametrize("most", [3, 4, 6, 8])
def test_share_metrics_without_file_descriptors_keeps_metrics_in_the_worker_and_warns(
    tmp_path: Path, most: int
) -> None:
    """It has three, and needs one for its slot and two for each file that it maps."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, 64))"
    logged: list[str] = []
    with worker(tmp_path, first=limit, logged=logged) as process:
        text = output_of(process)
    assert counted(text) == 2
    assert f"[Errno {errno.EMFILE}]" in "".join(logged)


def test_share_metrics_opens_its_files_before_the_first_count(tmp_path: Path) -> None:
    """So it has them though there are no file descriptors left when it counts first."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 64))"
    with worker(tmp_path, then=limit) as process:
        process.communicate()
    with worker(tmp_path) as process:
        assert counted(output_of(process)) == 4


@pytest.mark.parametrize("spoil", ["gone", "a file in its place", "a spoilt file"])
def test_metrics_render_without_its_folder_shows_own_values_and_counts_a_failure(
    tmp_path: Path, spoil: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with worker(folder) as process:
        if spoil == "a spoilt file":
            (folder / "counter_7.db").write_bytes(b"\xff\0\0\0\0\0\0\0\xff\xff\xff\0" * 100)
        else:
            folder.rename(tmp_path / "old")
        if spoil == "a file in its place":
            folder.touch()
        text = output_of(process)
    assert "metrics_failed" in text
    text = text[text.index("\n# HELP") + 1 :]
    assert counted(text) == 2
    assert sample(text, "iris_metrics_failures_total") == 1


def test_prometheus_client_makes_values_of_the_class_set_in_value_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it does not: see how `values.get_value_class()` chooses between the two."""

    class Value(values.MutexValue):
        pass

    monkeypatch.setattr(values, "ValueClass", Value)
    assert isinstance(Metrics().failures._value, Value)
