"""Several workers: they share the work; and what becomes of those that die, hang, or are slow."""

import asyncio
import os
import re
import resource
import shutil
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
from tests.e2e.stopping import assert_ends
from tests.support.flowers import SETOSA
from tests.support.processes import send
from tests.support.service import Service, is_alive, poll_until
from tests.support.service_processes import workers_of
from tests.support.workers import ends_told, until_heard
from uvicorn.config import STARTUP_FAILURE

WORKERS = 2
WRITERS = "SELECT count(DISTINCT backend) FROM iris_predictions"


async def predict(service: Service) -> str:
    """Ask over a connection of its own, so that any worker may take it."""
    async with AsyncClient(base_url=service.url, timeout=60) as client:
        response = await client.post("/predict", json=SETOSA)
        assert response.status_code == 200
        prediction_id: str = response.json()["id"]
        return prediction_id


async def predictions_counted(service: Service) -> float:
    async with AsyncClient(base_url=service.url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    counts = re.findall(r"^iris_predictions_total{[^}]*} (\S+)$", text, re.MULTILINE)
    return sum(map(float, counts))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The services' own folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def metrics_folder(temporary: Path) -> Path:
    """Where the workers share their metrics."""
    [folder] = temporary.glob("iris-metrics-*")
    return folder


async def test_workers_share_the_requests_and_the_metrics(
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
    ids: list[str] = []
    async with asyncio.timeout(90):
        while await connection.fetchval(WRITERS) < WORKERS:
            ids += await asyncio.gather(*(predict(service) for _ in range(16)))
    assert len(set(ids)) == len(ids)
    assert {await predictions_counted(service) for _ in range(8)} == {len(ids)}
    assert service.stop() == 0
    service.leaves_nothing()
    assert "Traceback" not in service.errors


def test_worker_that_is_killed_is_replaced_at_once_and_logged(
    begin: Callable[..., Service],
) -> None:
    service = begin(workers=WORKERS)
    victim, other = workers_of(service)
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    assert other in workers_of(service)
    [line] = ends_told(service)
    assert (line["pid"], line["exit_code"]) == (victim, -signal.SIGKILL)
    assert line["level"] == "warning"
    assert service.stop() == 0


@pytest.mark.parametrize("index", range(WORKERS))
def test_worker_killed_right_after_its_start_is_replaced(
    start: Start, database: URL, data_dir: Path, index: int
) -> None:
    service = start(**way_to(database), data_dir=data_dir, workers=WORKERS).until_ready()
    time.sleep(0.1)  # in which a worker tells the parent, who looks twice a second
    victim = workers_of(service)[index]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    assert service.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTTIN, signal.SIGTTOU])
def test_supervisor_at_sigttin_or_sigttou_keeps_its_workers(
    begin: Callable[..., Service], number: signal.Signals
) -> None:
    service = begin(workers=WORKERS)
    victim, other = workers_of(service)
    service.process.send_signal(number)
    send(signal.SIGKILL, [victim])
    poll_until(lambda: set(workers_of(service)) - {victim, other} != set(), "it is replaced")
    assert len(workers_of(service)) == WORKERS
    assert other in workers_of(service)
    assert service.stop() == 0


def test_worker_that_hangs_is_replaced(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS)
    victim, _ = workers_of(service)
    send(signal.SIGSTOP, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == WORKERS, "it is replaced")
    [line] = ends_told(service)
    assert (line["event"], line["pid"]) == ("worker_ended", victim)
    assert "did not answer" in line["hint"]
    assert service.stop() == 0


def test_workers_that_cannot_start_any_more_end_the_service_with_a_logged_hint(
    begin_interpreter: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's restart policy, and whoever watches it, then take notice."""
    broken = tmp_path / "broken"
    program = f"import os\nif os.path.exists({str(broken)!r}):\n    os._exit({STARTUP_FAILURE})\n"
    (tmp_path / "sitecustomize.py").write_text(program)  # which each interpreter runs
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    service = begin_interpreter(workers=WORKERS, shutdown_delay=0)
    victim, _ = workers_of(service)
    broken.touch()
    send(signal.SIGKILL, [victim])
    assert service.process.wait(60) == STARTUP_FAILURE
    assert "never served" in ends_told(service)[-1]["hint"]
    service.leaves_nothing()


async def test_workers_without_the_metrics_folder_serve_and_log_that_metrics_are_not_shared(
    begin: Callable[..., Service], temporary: Path
) -> None:
    service = begin(workers=WORKERS)
    workers = workers_of(service)
    folder = metrics_folder(temporary)
    shutil.rmtree(folder)
    folder.touch()
    assert await predictions_counted(service) == 0, "a worker's own values"
    send(signal.SIGKILL, workers)
    until_heard(service, 2 * WORKERS)
    assert service.errors.count('"metrics_not_shared"') == WORKERS
    assert str(folder) in service.errors
    await predict(service)
    assert service.stop() == 0


async def test_workers_killed_repeatedly_add_no_metrics_files_and_lose_no_counts(
    begin: Callable[..., Service], temporary: Path
) -> None:
    service = begin(workers=WORKERS)
    folder = metrics_folder(temporary)
    files = sorted(folder.iterdir())
    for turn in range(1, 4):
        await predict(service)
        send(signal.SIGKILL, workers_of(service))
        until_heard(service, (turn + 1) * WORKERS)
    assert await predictions_counted(service) == 3
    assert sorted(folder.iterdir()) == files
    assert service.stop() == 0
    assert not folder.exists()


async def test_serve_without_a_temporary_folder_serves_and_logs_that_metrics_are_not_shared(
    start_interpreter: Start, database: URL, data_dir: Path, folder: Path
) -> None:
    os.mkfifo(folder / "serve-0.err")
    reader = os.open(folder / "serve-0.err", os.O_RDONLY | os.O_NONBLOCK)
    service = start_interpreter(**way_to(database), data_dir=data_dir, workers=WORKERS)
    # No file can be written to, a temporary one either; imports take it longer than this.
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    service.until_ready()
    await predict(service)
    async with AsyncClient(base_url=service.url, timeout=60) as client:
        assert (await client.get("/metrics")).status_code == 200
    assert service.stop() == 0
    with os.fdopen(reader) as log:
        text = log.read()
    assert "metrics_not_shared" in text
    assert "No usable temporary directory found" in text


def test_serve_at_sigterm_with_a_hung_worker_stops_in_time(begin: Callable[..., Service]) -> None:
    service = begin(workers=WORKERS, shutdown_delay=0, shutdown_timeout=1)
    send(signal.SIGSTOP, workers_of(service)[:1])
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 1 + 2.5)


def test_workers_end_when_the_supervisor_is_killed(
    begin: Callable[..., Service], temporary: Path
) -> None:
    service = begin(workers=WORKERS)
    workers = workers_of(service)
    folder = metrics_folder(temporary)
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    poll_until(lambda: not any(map(is_alive, workers)), "they have ended")
    assert not folder.exists()
    begin(workers=WORKERS, port=service.port)
