"""Rows per second of ``POST /predict/batch``, beside what COPY alone does."""

import json
import random
import time
from statistics import median

import httpx2

from benchmarks.processes import HOST, Server
from benchmarks.tables import print_table
from benchmarks.workbench import Workbench
from iris_api.database.schema import MAX_BATCH_ITEMS
from iris_api.inference import FEATURE_NAMES

ROUNDS = 7


async def measure_bulk(bench: Workbench, server: Server) -> None:
    """Print the table. COPY writes the same columns of the same table, indexes and all."""
    rng = random.Random(0)
    rows = [[round(rng.uniform(0.1, 8), 1) for _ in FEATURE_NAMES] for _ in range(MAX_BATCH_ITEMS)]
    body = json.dumps({"items": [dict(zip(FEATURE_NAMES, row, strict=True)) for row in rows]})
    records = [
        (*row, 0, "setosa", '{"setosa": 0.9, "versicolor": 0.07, "virginica": 0.03}', "bench")
        for row in rows
    ]
    columns = [*FEATURE_NAMES, "prediction", "prediction_label", "probabilities", "model_version"]
    connection = await bench.connect()
    batch, copy = [], []
    async with httpx2.AsyncClient(timeout=60) as client:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            response = await client.post(
                f"http://{HOST}:{server.port}/predict/batch",
                content=body,
                headers={"Content-Type": "application/json"},
            )
            batch.append(MAX_BATCH_ITEMS / (time.perf_counter() - began))
            response.raise_for_status()
            began = time.perf_counter()
            await connection.copy_records_to_table(
                "iris_predictions", records=records, columns=columns
            )
            copy.append(MAX_BATCH_ITEMS / (time.perf_counter() - began))
    await connection.close()
    print_table(
        f"{MAX_BATCH_ITEMS} rows at once, {ROUNDS} rounds",
        ["", "rows/s", "to COPY"],
        [
            ["COPY alone", f"{median(copy):.0f}", "1.00"],
            ["POST /predict/batch", f"{median(batch):.0f}", f"{median(batch) / median(copy):.2f}"],
        ],
    )
