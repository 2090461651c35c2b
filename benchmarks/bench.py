"""``make bench``: the service against an empty endpoint and against the textbook's way.

Ratios are to the empty endpoint on the service's own server, so they leave out what that server
gains over plain uvicorn.

All in one run, in turn (A B C A B C), as ratios, because the machines are shared.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.bulk import measure_bulk
from benchmarks.latency import draw
from benchmarks.load import BODY, ROW, Sample, put_load
from benchmarks.processes import (
    HOST,
    SERVER_CORE,
    Server,
    empty_server,
    iris_server,
    uvicorn_server,
)
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import Workbench, settle, workbench
from iris_api.inference import load_artifact

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
CONNECTIONS = 64
PLAIN = "empty endpoint, plain uvicorn"
EMPTY = "empty endpoint on our server"
PREDICT = "/predict, linear model"

Measured = dict[str, list[tuple[Sample, float]]]
"""By server: the samples, each with the server's CPU microseconds for a request."""


def main() -> None:
    """Measure, and print the tables."""
    print_machine()
    with workbench() as bench, ExitStack() as stack:
        servers = [stack.enter_context(server) for server in contenders(bench)]
        report_throughput(measure(servers, CONNECTIONS))
        report_single(bench, measure(servers[1:5], 1))
        report_memory(servers[2])
        asyncio.run(measure_bulk(bench, servers[2]))
        draw(servers[1:3], Path("docs/latency.svg"))


def contenders(bench: Workbench) -> list[AbstractContextManager[Server]]:
    """All servers that the tables compare, in the tables' order."""

    def reference(name: str, factory: str, port: int, model: str) -> AbstractContextManager[Server]:
        log = bench.log(f"{factory}-{model}")
        environment = bench.environment(model)
        return uvicorn_server(
            name, f"benchmarks.apps:{factory}", port, environment=environment, log=log
        )

    def service(
        name: str,
        port: int,
        model: str,
        headers: Mapping[str, str] | None = None,
        auth: str = "off",
    ) -> AbstractContextManager[Server]:
        environment = {**bench.environment(model), "IRIS_AUTH": auth}
        log = bench.log(str(port))
        return iris_server(name, port, environment=environment, log=log, headers=headers)

    api_key = {"Authorization": f"Bearer {bench.api_key()}"}
    idempotency_key = {"Idempotency-Key": "bench-{n}"}

    return [
        reference(PLAIN, "empty", 8101, "linear"),
        empty_server(
            EMPTY, 8110, environment=bench.environment("linear"), log=bench.log("empty-own")
        ),
        service(PREDICT, 8102, "linear"),
        service("... with an API key", 8108, "linear", api_key, auth="keys"),
        service("... with an Idempotency-Key", 8109, "linear", idempotency_key),
        reference("... by FastAPI's own route", "ordinary_route", 8103, "linear"),
        reference("... and with a session injected", "injected_session", 8104, "linear"),
        reference("textbook, linear model", "textbook", 8105, "linear"),
        service("/predict, forest", 8106, "forest"),
        reference("textbook, forest", "textbook", 8107, "forest"),
    ]


def measure(servers: list[Server], connections: int) -> Measured:
    """Measure rounds in turn, each after a second of load that does not count.

    While the others have their turns, an idle server loses the caches, and on some machines its
    memory.
    """
    measured: Measured = {server.name: [] for server in servers}
    for _ in range(ROUNDS):
        for server in servers:
            load = partial(
                put_load,
                f"http://{HOST}:{server.port}/predict",
                BODY,
                connections=connections,
                headers=server.headers,
            )
            load(seconds=1)
            cpu = server.cpu_seconds()
            sample = load(seconds=SECONDS)
            spent = (server.cpu_seconds() - cpu) / sample.requests * 1e6
            measured[server.name].append((sample, spent))
            settle()
    return measured


def report_throughput(measured: Measured) -> None:
    """Print requests per second, CPU time and latencies, each as a median over the rounds."""
    rows = []
    for name, rounds in measured.items():
        rate = _median(rounds, lambda sample: sample.per_second)
        p50, p99 = (_median(rounds, get) for get in (lambda s: s.p50, lambda s: s.p99))
        cpu = median(spent for _, spent in rounds)
        rows.append(
            [
                name, f"{rate:.0f}", _ratio(measured, name, lambda s, _: s.per_second),
                f"{cpu:.0f}", _ratio(measured, name, lambda _, spent: spent),
                f"{p50:.1f}", f"{p99:.1f}", f"{p99 / p50:.1f}",
                str(sum(sample.failures for sample, _ in rounds)),
            ]
        )  # fmt: skip
    print_table(
        f"{CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s",
        ["", "req/s", "to empty", "CPU us", "to empty", "p50 ms", "p99 ms", "p99/p50", "failed"],
        rows,
    )


def report_single(bench: Workbench, measured: Measured) -> None:
    """Print how long a lone caller waits, beside the times of its parts."""
    p50 = {name: _median(rounds, lambda sample: sample.p50) for name, rounds in measured.items()}
    empty = p50.pop(EMPTY)
    insert = asyncio.run(time_insert(bench))
    call = time_predict(bench)
    parts = empty + insert + call
    print_table(
        "One connection, p50 in milliseconds",
        ["", "ms", "to the sum"],
        [
            [EMPTY, f"{empty:.3f}", ""],
            ["one asyncpg insert", f"{insert:.3f}", ""],
            ["one bare predict call", f"{call:.3f}", ""],
            ["sum of these", f"{parts:.3f}", "1.00"],
            *([name, f"{own:.3f}", f"{own / parts:.2f}"] for name, own in p50.items()),
        ],
    )


async def time_insert(bench: Workbench) -> float:
    """The median time of one committed insert, in milliseconds, from the server's core."""
    os.sched_setaffinity(0, {SERVER_CORE})
    connection = await bench.connect()
    statement = await connection.prepare(
        "INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,"
        " prediction, prediction_label, class_probabilities)"
        " VALUES ($1, $2, $3, $4, 0, 'setosa', '{0.98,0.02,0}') RETURNING id, created_at"
    )
    times = []
    for _ in range(1000):
        began = time.perf_counter()
        await statement.fetchrow(*ROW.values())
        times.append(time.perf_counter() - began)
    await connection.close()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return median(times) * 1000


def time_predict(bench: Workbench) -> float:
    """The median time of one call of scikit-learn for one row, in milliseconds."""
    classifier = load_artifact(bench.data_dir("linear") / "model").classifier
    row = np.array([list(ROW.values())])
    times = []
    for _ in range(1000):
        began = time.perf_counter()
        classifier.estimator.predict_proba(row)
        times.append(time.perf_counter() - began)
    return median(times) * 1000


def report_memory(server: Server) -> None:
    """Print the worker's memory after 30,000 and after 300,000 predictions."""
    sizes = []
    sent = 0
    for goal in (30_000, 300_000):
        while sent < goal:
            url = f"http://{HOST}:{server.port}/predict"
            sent += put_load(url, BODY, connections=CONNECTIONS, seconds=SECONDS).requests
        sizes.append((sent, server.resident_bytes()))
    first = sizes[0][1]
    print_table(
        "The worker's resident memory (beside what it served before)",
        ["after predictions", "MB", "ratio"],
        [[str(count), f"{size / 1e6:.0f}", f"{size / first:.3f}"] for count, size in sizes],
    )


def _median(rounds: list[tuple[Sample, float]], get: Callable[[Sample], float]) -> float:
    return median(get(sample) for sample, _ in rounds)


def _ratio(measured: Measured, name: str, get: Callable[[Sample, float], float]) -> str:
    """The median over the rounds of the ratio to the empty endpoint of the same round."""
    pairs = zip(measured[name], measured[EMPTY], strict=True)
    return f"{median(get(*own) / get(*base) for own, base in pairs):.2f}"


if __name__ == "__main__":
    main()
