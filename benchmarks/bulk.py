"""Rows per second of ``POST /predict/batch``, beside those of COPY alone."""

import json
import os
import random
import time
from http.client import HTTPConnection
from statistics import median

import numpy as np

from benchmarks.processes import HOST, LOAD_CORE, SERVER_CORE, Server
from benchmarks.tables import print_table
from benchmarks.workbench import Workbench
from iris_api.database.schema import MAX_BATCH_ITEMS
from iris_api.inference import load_artifact
from iris_api.iris import FEATURE_NAMES

ROUNDS = 15
ANSWER = ("prediction", "prediction_label", "class_probabilities")


async def measure_bulk(bench: Workbench, server: Server) -> None:
    """Print the table. COPY writes equal rows into the same table, with its indexes."""
    rng = random.Random(0)

    def measure() -> float:
        return round(rng.uniform(0.1, 8), 1)

    rows = [(measure(), measure(), measure(), measure()) for _ in range(MAX_BATCH_ITEMS)]
    body = json.dumps({"items": [dict(zip(FEATURE_NAMES, row, strict=True)) for row in rows]})
    classifier = load_artifact(bench.data_dir("linear") / "model").classifier
    records = [
        (1, *row, answer.prediction, answer.label, list((answer.probabilities or {}).values()))
        for row, answer in zip(rows, classifier.predict(np.array(rows)), strict=True)
    ]
    columns = ["client_id", *FEATURE_NAMES, *ANSWER]
    connection = await bench.connect()
    batch, copy = [], []
    client = HTTPConnection(HOST, server.port, timeout=60)
    os.sched_setaffinity(0, {LOAD_CORE})
    for _ in range(ROUNDS):
        began = time.perf_counter()
        client.request("POST", "/predict/batch", body, {"Content-Type": "application/json"})
        response = client.getresponse()
        response.read()
        batch.append(MAX_BATCH_ITEMS / (time.perf_counter() - began))
        assert response.status == 200
        os.sched_setaffinity(0, {SERVER_CORE})  # the service sends COPY from this core
        began = time.perf_counter()
        await connection.copy_records_to_table("iris_predictions", records=records, columns=columns)
        copy.append(MAX_BATCH_ITEMS / (time.perf_counter() - began))
        os.sched_setaffinity(0, {LOAD_CORE})
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    client.close()
    await connection.close()
    print_table(
        f"{MAX_BATCH_ITEMS} rows at once, {ROUNDS} rounds",
        ["", "rows/s", "to COPY"],
        [
            ["COPY alone", f"{median(copy):.0f}", "1.00"],
            ["POST /predict/batch", f"{median(batch):.0f}", f"{median(batch) / median(copy):.2f}"],
        ],
    )
