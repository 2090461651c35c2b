"""``make bench-history``: pages of a history of ten million rows, at any depth, by any filter."""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from statistics import median

import httpx2

from benchmarks.processes import HOST, iris_server
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import Workbench, workbench
from iris_api.database.cursor import Cursor

ROWS = int(os.environ.get("BENCH_ROWS", "10000000"))
DEPTH = ROWS * 9 // 10
ROUNDS = 200
PORT = 8106
START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(milliseconds=100)
"""Row n has the time START + n * STEP, and one of three labels and of two ML models in turn."""

_FILL = """
    INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities, model_version, created_at)
    SELECT 5.1, 3.5, 1.4, 0.2, n % 3, (ARRAY['setosa', 'versicolor', 'virginica'])[n % 3 + 1],
        '{"setosa":0.98,"versicolor":0.0123456789,"virginica":0.0076543211}'::json,
        CASE WHEN n % 10 = 0 THEN 'bench-new' ELSE 'bench-old' END,
        $1::timestamptz + n * $2::interval
    FROM generate_series($3::int, $4::int) AS n
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
        await connection.execute("TRUNCATE iris_predictions")
        chunk = 500_000
        for start in range(0, ROWS, chunk):
            await connection.execute(
                _FILL, START, STEP, start, min(start + chunk, ROWS) - 1, timeout=600
            )
        await connection.execute("VACUUM ANALYZE iris_predictions", timeout=600)
        print(f"filled {ROWS:,} rows in {time.perf_counter() - began:.0f} s")
    bytes_in_all = await connection.fetchval("SELECT pg_total_relation_size('iris_predictions')")
    print(f"the table takes {bytes_in_all / ROWS:.0f} bytes a row, its indexes included")
    await connection.close()


def queries() -> dict[str, Mapping[str, str]]:
    """The queries of the compared pages, by their names in the table."""

    def instant(row: int) -> str:
        return (START + row * STEP).isoformat()

    deep = {"cursor": Cursor(START + (ROWS - DEPTH) * STEP, 2**63 - 1).encode()}
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
                assert len(response.raise_for_status().json()["items"]) == 50, name
                if turn >= 10:
                    times[name].append(elapsed * 1000)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
