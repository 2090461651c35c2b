"""Several workers: they share the work; and what becomes of those that die, hang, or are slow."""

import asyncio
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.e2e.service import SETOSA, Service, is_alive, poll_until
from tests.e2e.stopping import assert_ends
from tests.e2e.workers import ends_told, heard, until_heard
from tests.faults.processes import send
from tests.faults.services import workers_of

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


def test_a_worker_that_dies_is_replaced_at_once_and_told_of(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    victim, other = workers_of(service)
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    assert other in workers_of(service)
    [line] = ends_told(service)
    assert (line["pid"], line["exit_code"], line["next_in_s"]) == (victim, -signal.SIGKILL, 0)
    assert line["level"] == "warning"
    assert service.stop() == 0


@pytest.mark.parametrize("index", range(WORKERS))
def test_a_worker_that_dies_before_it_was_looked_at_twice_does_not_end_the_service(
    start: Start, database: URL, data_dir: Path, index: int
) -> None:
    service = start(**way_to(database), data_dir=data_dir, workers=WORKERS).until_ready()
    time.sleep(0.1)  # in which a worker tells the parent, who looks twice a second
    victim = workers_of(service)[index]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    assert service.stop() == 0


def test_sigttin_begins_one_worker_more(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    service.process.send_signal(signal.SIGTTIN)
    until_heard(service, WORKERS + 1)
    assert len(workers_of(service)) == WORKERS + 1
    assert service.stop() == 0


def test_a_worker_that_hangs_is_replaced(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    victim, _ = workers_of(service)
    send(signal.SIGSTOP, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    [line] = ends_told(service)
    assert (line["event"], line["pid"]) == ("a worker hung, and was killed", victim)
    assert service.stop() == 0


def test_a_worker_that_takes_long_to_begin_is_waited_for(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    victim, other = workers_of(service)
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "another begins")
    [slow] = set(workers_of(service)) - {victim, other}
    send(signal.SIGSTOP, [slow])
    time.sleep(7)  # longer than one that serves may be silent
    send(signal.SIGCONT, [slow])
    poll_until(lambda: slow in heard(service), "it serves")
    assert set(workers_of(service)) == {slow, other}
    assert service.stop() == 0


def test_workers_that_cannot_begin_are_begun_ever_less_often(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    victim, other = workers_of(service)
    environment = Path(f"/proc/{victim}/environ").read_text()
    [folder] = map(Path, re.findall(r"PROMETHEUS_MULTIPROC_DIR=([^\0]+)", environment))
    folder.rename(folder.with_suffix(".old"))
    folder.touch()
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(ends_told(service)) >= 3, "two have failed after it")
    assert [line["next_in_s"] for line in ends_told(service)[:3]] == [0, 1, 2]
    folder.unlink()  # as good as tidied away
    poll_until(lambda: len(workers_of(service)) == WORKERS, "the next one finds its way")
    assert other in workers_of(service)
    assert service.stop() == 0


def test_a_worker_that_hangs_does_not_keep_the_service(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS, shutdown_delay=0, shutdown_timeout=1)
    send(signal.SIGSTOP, workers_of(service)[:1])
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 1 + 2.5)


def test_workers_end_with_their_parent_though_it_was_killed(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    workers = workers_of(service)
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    poll_until(lambda: not any(map(is_alive, workers)), "they have ended")
    begin(workers=WORKERS, port=service.port)
