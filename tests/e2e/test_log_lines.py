import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from httpx2 import AsyncClient, Response
from sqlalchemy import URL
from tests.conftest import execute
from tests.support.flowers import SETOSA
from tests.support.log_lines import line_of, lines_of
from tests.support.service import Service, environment, run

FLOWER = {**SETOSA, "sepal_length": 5.0625}
NAME = "Grace-Hopper-1906"
"""A reference. It may name a person."""
REFUSE_ALL = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE unique_violation USING DETAIL = NEW.reference, HINT = NEW.reference; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON iris_predictions
    FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def test_log_has_one_json_line_per_request_with_its_request_id(service: Service) -> None:
    async with service.client() as client:
        for path, status, body in [
            ("/predict", 200, FLOWER),
            ("/predict", 422, {}),
            ("/nowhere", 404, {}),
        ]:
            response = await client.post(path, json=body)
            assert response.status_code == status
            line = line_of(service, response.headers["X-Request-ID"])
            assert (line["method"], line["path"], line["status"]) == ("POST", path, status)
            assert line["duration_ms"] > 0
            assert line["level"] == "info"
            assert line["timestamp"].endswith("Z")
        taken = {"X-Request-ID": "mine-1"}
        await client.get("/predictions?label=secret-label", headers=taken)
    assert line_of(service, "mine-1")["path"] == "/predictions"
    assert "5.0625" not in service.errors
    assert "secret-label" not in service.errors


NAMED = {"Prediction-Reference": NAME}
ITEM = FLOWER | {"reference": NAME}
HISTORY = f"/predictions?reference={NAME}"


async def be_refused(client: AsyncClient) -> list[Response]:
    """Send the reference with all that the service refuses before PostgreSQL does."""
    reused = {"Prediction-Reference": "other", "Idempotency-Key": "mine"}
    of_the_batch = NAMED | {"Idempotency-Key": "batch"}
    long = ITEM | {"reference": NAME * 50}
    return [
        await client.post("/predict", json=FLOWER, headers=reused),
        await client.post("/predict", json=FLOWER, headers=of_the_batch),
        await client.post("/predict", json=FLOWER, headers=[*NAMED.items()] * 2),
        await client.post("/predict", json=FLOWER, headers={**NAMED, "Host": "elsewhere"}),
        await client.post("/predict", json={}, headers=NAMED),
        await client.post("/predict", content=b" " * 5000, headers=NAMED),
        await client.post("/predict/batch", json={"items": [ITEM | {"": 1}]}),
        await client.post("/predict/batch", json={"items": [long]}),
        await client.get(f"{HISTORY}&limit=0"),
        await client.get(f"{HISTORY}&cursor={NAME}"),
        await client.delete(HISTORY),
    ]


async def test_log_at_debug_metrics_and_errors_never_hold_a_reference(
    begin: Callable[..., Service], database: URL
) -> None:
    service = begin(log_level="DEBUG", max_body_bytes=4096)
    batch = {"items": [ITEM, ITEM]}
    async with service.client() as client:
        for _ in range(2):
            keyed = NAMED | {"Idempotency-Key": "mine"}
            assert (await client.post("/predict", json=FLOWER, headers=keyed)).status_code == 200
            keyed = {"Idempotency-Key": "batch"}
            answer = await client.post("/predict/batch", json=batch, headers=keyed)
            assert answer.status_code == 200
        assert (await client.get(HISTORY)).text.count(NAME) == 3
        refusals = await be_refused(client)
        for harm in (REFUSE_ALL, "DROP TABLE iris_predictions"):
            await asyncio.to_thread(execute, database, harm)
            refusals += [
                await client.post("/predict", json=FLOWER, headers=NAMED),
                await client.post("/predict/batch", json=batch),
            ]
        refusals += [await client.get(HISTORY), await client.get("/readyz")]
        metrics = (await client.get("/metrics")).text
        last = await client.get("/livez")
    statuses = {answer.status_code for answer in refusals}
    assert min(statuses) >= 400
    assert statuses >= {405, 413, 421, 422, 500, 503}
    line_of(service, last.headers["X-Request-ID"])
    for text in (metrics, service.output, service.errors, *(one.text for one in refusals)):
        assert NAME not in text


def test_migrate_without_a_terminal_writes_only_the_json_log(
    folder: Path, embedded_dir: Path
) -> None:
    result = run(folder, "migrate", data_dir=embedded_dir)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    *_, last = map(json.loads, result.stderr.splitlines())
    assert last["event"] == "schema_migrated"
    assert last["message"] == f"The schema is at revision {last['revision']}"


def test_migrate_at_a_terminal_prints_text_on_standard_output(
    folder: Path, embedded_dir: Path
) -> None:
    main, terminal = os.openpty()
    with os.fdopen(main, "rb") as output:
        process = subprocess.run(
            [sys.executable, "-m", "iris_api", "migrate"],
            env=environment(data_dir=embedded_dir),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            check=True,
        )
        os.close(terminal)
        told = os.read(output.fileno(), 65536).decode()
    assert "•" in told
    assert "The schema is at revision " in told
    assert process.stderr == b""


@pytest.mark.parametrize("condition", ["1 / (prediction - prediction) = 1", "sepal_length < 5"])
@pytest.mark.parametrize(("path", "body"), [("", FLOWER), ("/batch", {"items": [FLOWER] * 2})])
async def test_log_of_a_row_that_postgresql_refuses_has_the_sqlstate_without_the_input(
    service: Service, service_database: URL, condition: str, path: str, body: dict[str, Any]
) -> None:
    broken = f"ADD CONSTRAINT broken CHECK ({condition}) NOT VALID"
    await asyncio.to_thread(execute, service_database, f"ALTER TABLE iris_predictions {broken}")
    async with service.client() as client:
        response = await client.post(f"/predict{path}", json=body)
    mended = "DROP CONSTRAINT broken"
    await asyncio.to_thread(execute, service_database, f"ALTER TABLE iris_predictions {mended}")
    assert response.status_code == 500
    assert line_of(service, response.json()["request_id"])["status"] == 500
    codes = {line["sqlstate"] for line in lines_of(service) if line["event"] == "database_failure"}
    assert {"22012" if "/" in condition else "23514"} <= codes
    assert "5.0625" not in service.errors


@pytest.mark.parametrize("path", ["", "/{id}"])
async def test_log_of_an_unhandled_error_has_the_traceback_without_the_input(
    service: Service, service_database: URL, path: str
) -> None:
    """The trace is there for the operators; what the client sent and the settings are not."""
    async with service.client() as client:
        number = (await client.post("/predict", json=FLOWER)).json()["id"]
        spoil = "ALTER prediction_label DROP NOT NULL; UPDATE iris_predictions SET prediction_label"
        await asyncio.to_thread(
            execute, service_database, f"ALTER TABLE iris_predictions {spoil} = NULL"
        )
        response = await client.get("/predictions" + path.format(id=number))
    await asyncio.to_thread(
        execute,
        service_database,
        "DELETE FROM iris_predictions WHERE prediction_label IS NULL;"
        "ALTER TABLE iris_predictions ALTER prediction_label SET NOT NULL",
    )
    assert response.status_code == 500
    request_id = response.json()["request_id"]
    assert line_of(service, request_id)["status"] == 500
    [failure] = [
        line
        for line in lines_of(service)
        if line["event"] == "unhandled_error" and line["request_id"] == request_id
    ]
    assert failure["level"] == "error"
    assert failure["exception"]
    assert "5.0625" not in service.errors
    assert '"locals"' not in service.errors, "they hold the input, and the database's password"
    assert len(json.dumps(failure)) < 100_000
