"""``make bench-against REVISION=...``: the CPU time of this code's requests, beside a revision's.

Both run at the same time, each on its own schema, and get the load in turn. This code runs a second
time as well: its difference from itself is the figures' noise.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median

from sqlalchemy import make_url

from benchmarks.load import BODY, put_load
from benchmarks.processes import HOST, Server, iris_server
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import MODELS, Workbench, settle, workbench

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
ROOT = Path(__file__).parents[1]
BATCH_ITEMS = 1000
BATCH = f'{{"items": [{", ".join([BODY] * BATCH_ITEMS)}]}}'
REQUESTS = {
    "/predict, 64 connections": ("/predict", BODY, 64, {}),
    "/predict, 1 connection": ("/predict", BODY, 1, {}),
    "... with an Idempotency-Key": ("/predict", BODY, 64, {"Idempotency-Key": "bench-{n}"}),
    f"/predict/batch of {BATCH_ITEMS}": ("/predict/batch", BATCH, 4, {}),
    "... with an Idempotency-Key ": ("/predict/batch", BATCH, 4, {"Idempotency-Key": "batch-{n}"}),
}
"""Path, body, connections and headers."""


def main() -> None:
    """Measure, and print the table."""
    if len(sys.argv) != 2:
        raise SystemExit("Name the revision to compare with: make bench-against REVISION=main~1")
    revision = sys.argv[1]
    print_machine()
    with checkout(revision) as other, workbench() as bench, ExitStack() as stack:
        ports = count(8121)
        trees = {revision: other, "this": ROOT, "this again": ROOT}
        servers = {
            name: stack.enter_context(serving(bench, name, tree, next(ports)))
            for name, tree in trees.items()
        }
        rows = [measure(name, servers) for name in REQUESTS]
    print_table(
        f"CPU time of a request in us, median of {ROUNDS} rounds of {SECONDS:g} s; the ratios are "
        "the medians of the rounds'",
        ["", revision, "this", "to it", "this to itself"],
        rows,
    )


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A work tree of the revision, for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*arguments: str) -> None:
    """Run git in this checkout."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=True)


@contextmanager
def serving(bench: Workbench, name: str, tree: Path, port: int) -> Iterator[Server]:
    """The service of a work tree, with this environment's libraries, on a database of its own."""
    environment = {
        **bench.environment("linear"),
        "IRIS_AUTH": "off",
        "IRIS_DATABASE_URL": asyncio.run(make_database(bench, f"against_{port}")),
        "IRIS_DATA_DIR": str(bench.data_dir(f"against-{port}")),
        "PYTHONPATH": str(tree / "src"),
    }
    for command in (["migrate"], ["train", "--candidate", MODELS["linear"]]):
        subprocess.run(
            [sys.executable, "-m", "iris_api", *command],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
    log = bench.log(f"against-{port}")
    with iris_server(name, port, environment=environment, log=log) as server:
        yield server


async def make_database(bench: Workbench, name: str) -> str:
    """Make an empty database beside the bench's; return its URL."""
    connection = await bench.connect()
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    url = make_url(bench.database_url).set(database=name)
    return url.render_as_string(hide_password=False)


def measure(request: str, servers: dict[str, Server]) -> list[str]:
    """One row of the table."""
    path, body, connections, headers = REQUESTS[request]
    spent: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            url = f"http://{HOST}:{server.port}{path}"
            put_load(url, body, connections=connections, seconds=1, headers=headers)
            before = server.cpu_seconds()
            sample = put_load(url, body, connections=connections, seconds=SECONDS, headers=headers)
            assert sample.failures == 0
            spent[name].append((server.cpu_seconds() - before) / sample.requests * 1e6)
            settle()
    other, this, again = spent.values()
    return [
        request,
        f"{median(other):.0f}",
        f"{median(this):.0f}",
        f"{_ratio(this + again, other + other):.3f}",
        f"{_ratio(again, this):.3f}",
    ]


def _ratio(ours: list[float], others: list[float]) -> float:
    return median(one / other for one, other in zip(ours, others, strict=True))


if __name__ == "__main__":
    main()
