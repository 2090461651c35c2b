"""Metrics that several workers share: in one folder, by files of fixed size and fixed number."""

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import values
from tests.unit.metric_samples import sample

from iris_api import errors
from iris_api.app import create_app
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import _KNOWN_METHODS
from iris_api.observability.shared_files import _BYTES, FOLDER_VARIABLE
from iris_api.settings import Settings

WORKER = """
import sys
from iris_api.observability.metrics import Metrics, share_metrics
exec(sys.argv[1])
share_metrics()
metrics = Metrics()
exec(sys.argv[2])
metrics.count_predictions([("setosa", "a-1")] * 2 + [("virginica", "a-1")])
metrics.observe_inference(0.5, 1)
for _ in range(3):
    metrics.connection_checked_out()
metrics.set_connections_limit(8)
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render().decode())
"""
ALL_LABELS = """
import json, os, sys
from pathlib import Path
from iris_api.observability.metrics import Metrics, share_metrics
share_metrics()
metrics = Metrics()
requests, predictions, reasons = json.load(sys.stdin)
for method, route, status in requests:
    metrics.observe_request(method, route, status, 0.1)
metrics.count_predictions(map(tuple, predictions))
for reason in reasons:
    metrics.count_refused_connection(reason)
metrics.observe_inference(0.1, 1)
metrics.observe_group(1)
metrics.connection_checked_out()
metrics.set_connections_limit(8)
assert metrics.failures._value.get() == 0
"""


@contextmanager
def worker(
    folder: Path, *before: str, first: str = "", then: str = "", said: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted; it renders what it sees and ends when its input is closed.

    What it has logged until then is added to ``said``.
    """
    said = [] if said is None else said
    process = subprocess.Popen(
        [*before, sys.executable, "-c", WORKER, first, then],
        env=environment(folder, measured=not (before or first)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said.append(process.stdout.readline())
        while said[-1] not in {"ready\n", ""}:
            said.append(process.stdout.readline())
        assert said[-1] == "ready\n", said
        yield process


def environment(folder: Path, *, measured: bool) -> dict[str, str]:
    """A worker's; one that is scarce of files or space has none for its coverage."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if measured or not name.startswith("COVERAGE_")
    }
    return {**inherited, FOLDER_VARIABLE: str(folder)}


def told_by(process: "subprocess.Popen[str]") -> str:
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


def in_use(text: str) -> float | None:
    return sample(text, "iris_database_connections_in_use")


def counted(text: str) -> float | None:
    return sample(text, "iris_predictions_total", label="setosa", model_version="a-1")


def test_the_workers_values_are_summed_and_a_dead_ones_gauges_are_forgotten(
    tmp_path: Path,
) -> None:
    with worker(tmp_path) as first:
        with worker(tmp_path) as second:
            both = told_by(second)
        alone = told_by(first)
    for text in (both, alone):
        assert counted(text) == 4
        assert sample(text, "iris_inference_duration_seconds_count") == 2
    for name, value in (("in_use", 3), ("limit", 8)):
        assert sample(both, f"iris_database_connections_{name}") == 2 * value
        assert sample(alone, f"iris_database_connections_{name}") == value


def test_a_worker_that_is_killed_leaves_its_counts_and_its_files_to_the_next(
    tmp_path: Path,
) -> None:
    for _ in range(3):
        with worker(tmp_path) as process:
            process.kill()
    names = sorted(file.name for file in tmp_path.iterdir())
    with worker(tmp_path) as process:
        text = told_by(process)
    assert counted(text) == 8
    assert in_use(text) == 3
    assert names == sorted(f"{kind}_0.db" for kind in _BYTES)
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_a_worker_that_has_only_created_its_files_spoils_no_scrape(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for kind in _BYTES:
            (tmp_path / f"{kind}_1.db").touch()
        (tmp_path / "counter_2.db").symlink_to("nowhere")  # listed, and gone when it is looked at
        text = told_by(process)
    assert sample(text, "iris_database_connections_limit") == 8


def test_the_files_of_a_worker_have_all_their_space_from_the_start(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for kind, size in _BYTES.items():
            file = (tmp_path / f"{kind}_0.db").stat()
            assert (file.st_size, file.st_blocks * 512 >= size) == (size, True), kind
        told_by(process)


def test_all_label_sets_that_can_occur_fit_into_the_files_of_a_worker(tmp_path: Path) -> None:
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


def test_a_worker_without_room_for_its_files_keeps_its_metrics_to_itself_and_says_so(
    tmp_path: Path,
) -> None:
    """A limit on the size of files stands for a full disk, which a fault test has."""
    said: list[str] = []
    with worker(tmp_path, "sh", "-c", 'ulimit -f 8; exec "$@"', "sh", said=said) as process:
        text = told_by(process)
    assert counted(text) == 2
    assert in_use(text) == 3
    [line] = said[:-1]
    for word in ("metrics_not_shared", str(tmp_path), f"[Errno {errno.EFBIG}]", "TMPDIR"):
        assert word in line


@pytest.mark.parametrize("spoil", ["a file in its place", "no parent", "a spoilt file"])
def test_a_worker_whose_folder_cannot_be_used_keeps_its_metrics_to_itself_and_says_so(
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
    said: list[str] = []
    with worker(folder, said=said) as process:
        text = told_by(process)
    assert counted(text) == 2
    assert "metrics_not_shared" in "".join(said)


@pytest.mark.parametrize("most", [3, 4, 6, 8])
def test_a_worker_without_file_descriptors_for_its_files_keeps_its_metrics_to_itself(
    tmp_path: Path, most: int
) -> None:
    """It has three, and needs one for its slot and two for each file that it maps."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, 64))"
    said: list[str] = []
    with worker(tmp_path, first=limit, said=said) as process:
        text = told_by(process)
    assert counted(text) == 2
    assert f"[Errno {errno.EMFILE}]" in "".join(said)


def test_a_worker_has_opened_its_files_when_it_begins_to_serve(tmp_path: Path) -> None:
    """So it has them though there are no file descriptors left when it counts first."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 64))"
    with worker(tmp_path, then=limit) as process:
        process.communicate()
    with worker(tmp_path) as process:
        assert counted(told_by(process)) == 4


@pytest.mark.parametrize("spoil", ["gone", "a file in its place", "a spoilt file"])
def test_a_scrape_without_the_folder_shows_the_values_of_the_worker_and_a_failure(
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
        text = told_by(process)
    assert "metrics_failed" in text
    text = text[text.index("# HELP") :]
    assert counted(text) == 2
    assert sample(text, "iris_metrics_failures_total") == 1


def test_prometheus_client_makes_its_values_of_the_class_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it does not: see how `values.get_value_class()` chooses between the two."""

    class Value(values.MutexValue):
        pass

    monkeypatch.setattr(values, "ValueClass", Value)
    assert isinstance(Metrics().failures._value, Value)
