import asyncio
import re
from pathlib import Path

import asyncpg
import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.e2e.service import SETOSA, Service

WORKERS = 2
WRITERS = "SELECT count(DISTINCT backend) FROM iris_predictions"


async def predict(service: Service) -> int:
    """Ask over a connection of its own, so that any worker may take it."""
    async with AsyncClient(base_url=service.url, timeout=60) as client:
        response = await client.post("/predict", json=SETOSA)
        assert response.status_code == 200
        number: int = response.json()["id"]
        return number


async def predictions_counted(service: Service) -> float:
    async with AsyncClient(base_url=service.url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    counts = re.findall(r"^iris_predictions_total{[^}]*} (\S+)$", text, re.MULTILINE)
    return sum(map(float, counts))


async def test_two_workers_share_the_work_and_the_metrics(
    start: Start, database: URL, connection: asyncpg.Connection, data_dir: Path
) -> None:
    way = way_to(database)
    if way["database_pgbouncer"]:
        pytest.skip("through PgBouncer a worker has no backend of its own, which here tells whose")
    # With one connection for each worker, the backend that wrote a row tells the worker.
    await connection.execute(
        "ALTER TABLE iris_predictions ADD COLUMN backend int DEFAULT pg_backend_pid()"
    )
    service = start(**way, data_dir=data_dir, workers=WORKERS, database_pool_size=1).until_ready()
    ids: list[int] = []
    async with asyncio.timeout(90):
        while await connection.fetchval(WRITERS) < WORKERS:
            ids += await asyncio.gather(*(predict(service) for _ in range(16)))
    assert len(set(ids)) == len(ids)
    assert {await predictions_counted(service) for _ in range(8)} == {len(ids)}
    assert service.stop() == 0
    service.leaves_nothing()
    assert "Traceback" not in service.errors
