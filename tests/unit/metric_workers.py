"""Processes that share their metrics, as several workers do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iris_api.observability.shared_files import FOLDER_VARIABLE

WORKER = """
import sys
from iris_api.observability.metrics import Metrics, share_metrics
exec(sys.argv[1])
share_metrics()
metrics = Metrics()
exec(sys.argv[2])
metrics.count_predictions([("setosa", "a-1")] * 2 + [("virginica", "a-1")])
metrics.observe_inference(0.5, 1)
metrics.read_at_scrape(metrics.connections_in_use, lambda: 3)
metrics.read_at_scrape(metrics.connections_limit, lambda: 8)
metrics.read_gauges()
metrics.set_model("a-1", "0" * 64)
metrics.set_ready(True)
exec(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render().decode())
"""


@contextmanager
def worker(
    folder: Path,
    *before: str,
    first: str = "",
    then: str = "",
    last: str = "",
    logged: list[str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted; it renders what it sees and ends when its input is closed.

    What it has logged until then is added to ``logged``.
    """
    logged = [] if logged is None else logged
    process = subprocess.Popen(
        [*before, sys.executable, "-c", WORKER, first, then, last],
        env=environment(folder, measured=not (before or first)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        logged.append(process.stdout.readline())
        while logged[-1] not in {"ready\n", ""}:
            logged.append(process.stdout.readline())
        assert logged[-1] == "ready\n", logged
        yield process


def environment(folder: Path, *, measured: bool) -> dict[str, str]:
    """A worker's; one that is scarce of files or space has none for its coverage."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if measured or not name.startswith("COVERAGE_")
    }
    return {**inherited, FOLDER_VARIABLE: str(folder)}


def output_of(process: "subprocess.Popen[str]") -> str:
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return text
