"""``make bench-history``: pages of a history of ten million rows, at any depth, by any filter."""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from statistics import median

import asyncpg
import httpx2

from benchmarks.processes import HOST, iris_server
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import Workbench, workbench
from iris_api.database.cursor import Cursor
from iris_api.database.prediction_id import first_id_at

ROWS = int(os.environ.get("BENCH_ROWS", "10000000"))
DEPTH = ROWS * 9 // 10
ROUNDS = 200
PORT = 8106
MONTHS = 36
START = (datetime.now(UTC) - timedelta(days=MONTHS * 30.4)).replace(microsecond=0)
STEP = timedelta(days=MONTHS * 30.4) / ROWS
"""Row n has the time START + n * STEP, one of three labels, and one of two ML models. Another label
and another ML model are those of the first row only."""

_MODELS = """
    INSERT INTO models (version, labels)
    SELECT version, '{setosa,versicolor,virginica,oldest}'
    FROM unnest(ARRAY['bench-new', 'bench-old', 'bench-oldest']) AS version
    ON CONFLICT DO NOTHING
"""
_FILL = """
    INSERT INTO iris_predictions (id, created_at, sepal_length, sepal_width, petal_length,
        petal_width, prediction, prediction_label, class_probabilities, model_id)
    SELECT iris_prediction_id(at), at, 5.1, 3.5, 1.4, 0.2, n % 3,
        CASE WHEN n = 0 THEN 'oldest'
        ELSE (ARRAY['setosa', 'versicolor', 'virginica'])[n % 3 + 1] END,
        ARRAY[0.98, 0.0123456789, 0.0076543211],
        (SELECT id FROM models WHERE version = CASE WHEN n = 0 THEN 'bench-oldest'
            WHEN n % 10 = 0 THEN 'bench-new' ELSE 'bench-old' END)
    FROM generate_series($3::int, $4::int) AS n,
        LATERAL (SELECT $1::timestamptz + n * $2::interval AS at) AS times
"""


def main() -> None:
    """Fill the table, request pages in turn, print their times as ratios."""
    print_machine()
    with workbench(empty=False) as bench, ExitStack() as stack:
        asyncio.run(fill(bench))
        stack.enter_context(
            iris_server(
                "iris", PORT, environment=bench.environment("linear"), log=bench.log("history")
            )
        )
        times = asyncio.run(measure(queries()))
    first = times["first page"]
    print_table(
        f"{ROWS:,} rows, pages of 50, one caller, {ROUNDS} rounds in turn; p50 in milliseconds",
        ["", "ms", "to the first page"],
        [[name, f"{value:.2f}", f"{value / first:.2f}"] for name, value in times.items()],
    )


async def fill(bench: Workbench) -> None:
    """Fill the table with the benchmark's rows only, unless it has them already."""
    connection = await bench.connect()
    count = await connection.fetchval("SELECT count(*) FROM iris_predictions")
    if count != ROWS:
        began = time.perf_counter()
        await _partition(connection)
        await connection.execute(_MODELS)
        chunk = 500_000
        for start in range(0, ROWS, chunk):
            await connection.execute(
                _FILL, START, STEP, start, min(start + chunk, ROWS) - 1, timeout=600
            )
        await connection.execute("VACUUM ANALYZE iris_predictions", timeout=600)
        print(f"filled {ROWS:,} rows in {time.perf_counter() - began:.0f} s")
    bytes_in_all = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
        " WHERE inhparent = 'iris_predictions'::regclass"
    )
    print(f"the table takes {bytes_in_all / ROWS:.0f} bytes a row, its indexes included")
    await connection.close()


async def _partition(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Drop all rows, and make a partition for each month since `START`."""
    partitions = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'iris_predictions'::regclass"
    )
    for partition in partitions:
        await connection.execute(f"DROP TABLE {partition['name']}")
    await connection.execute("SELECT iris_add_partitions(24, $1)", START)


def queries() -> dict[str, Mapping[str, str]]:
    """The queries of the compared pages, by their names in the table."""

    def instant(row: int) -> str:
        return (START + row * STEP).isoformat()

    deep = {"cursor": Cursor(first_id_at(START + (ROWS - DEPTH) * STEP)).encode()}
    oldest_label, oldest_model = {"label": "oldest"}, {"model_version": "bench-oldest"}
    label, model = {"label": "setosa"}, {"model_version": "bench-new"}
    since, until = {"since": instant(ROWS // 4)}, {"until": instant(ROWS // 2)}
    return {
        "first page": {},
        f"page at depth {DEPTH:,}": deep,
        "label": label,
        "label, at depth": {**label, **deep},
        "model_version": model,
        "model_version, at depth": {**model, **deep},
        "since": since,
        "until": until,
        "since, until": {**since, **until},
        "label, model_version": {**label, **model},
        "label, model_version, since, until": {**label, **model, **since, **until},
        "label, model_version, at depth": {**label, **model, **deep},
        "label of the oldest row": oldest_label,
        "model_version of the oldest row": oldest_model,
        "label and model_version of the oldest row": {**oldest_label, **oldest_model},
        "label that no row has": {"label": "nowhere"},
        "model_version that no row has": {"model_version": "nowhere"},
        "label, model_version that no row has": {**oldest_label, **model},
        "skip 10,000": {"skip": "10000"},
    }


async def measure(pages: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """The median time of each page, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in pages}
    async with httpx2.AsyncClient(base_url=f"http://{HOST}:{PORT}") as client:
        for turn in range(ROUNDS + 10):
            for name, params in pages.items():
                began = time.perf_counter()
                response = await client.get("/predictions", params=params)
                elapsed = time.perf_counter() - began
                most = 1 if "oldest" in name else 0 if "no row" in name else 50
                assert len(response.raise_for_status().json()["items"]) == most, name
                if turn >= 10:
                    times[name].append(elapsed * 1000)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
