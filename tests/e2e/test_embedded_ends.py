"""An embedded PostgreSQL that ends unasked: it is started again, unless it ends too often."""

import asyncio
import json
import os
import signal
import threading
import time
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url
from tests.conftest import dsn_of, execute
from tests.e2e.conftest import Start
from tests.e2e.postmasters import kill_postmaster, until_another_is_ready
from tests.e2e.stopping import WORKERS, ask
from tests.support.processes import send
from tests.support.service import Service, is_alive, poll_until, postmaster_of
from tests.support.service_processes import workers_of
from tests.support.workers import until_heard

from iris_api.embedded import leftovers, postmaster
from iris_api.embedded.postgres import EmbeddedPostgres, provide_database
from iris_api.embedded.postmaster import MOST_ENDS
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

RECOVERY_SECONDS = 5
BUSY = """
    DO $$
        DECLARE done timestamptz := clock_timestamp() + interval '2 s';
        BEGIN WHILE clock_timestamp() < done LOOP END LOOP; END
    $$
"""
"""Keeps a backend at work for longer than its postmaster lives, and the shared memory with it."""
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%WHILE%'"


@pytest.fixture
def data_dir(embedded_dir: Path) -> Path:
    """No test here is about the first start, which runs initdb."""
    return embedded_dir


def predicts(service: Service) -> bool:
    return ask(service, "POST", "/predict").status == 200


def stored(data_dir: Path) -> int:
    async def count() -> int:
        url = EmbeddedPostgres(data_dir / "postgres").url
        connection = await asyncpg.connect(dsn_of(url))
        try:
            number: int = await connection.fetchval("SELECT count(*) FROM iris_predictions")
            return number
        finally:
            await connection.close()

    return asyncio.run(count())


def ends_logged(service: Service) -> list[int]:
    """The exit codes of the servers that have ended, as the service has logged them."""
    lines = [json.loads(line) for line in service.errors.splitlines() if line.startswith("{")]
    ends = [line for line in lines if line["event"] == "embedded_postgresql_ended"]
    assert {line["level"] for line in ends} <= {"warning"}
    return [line["exit_code"] for line in ends]


@WORKERS
def test_serve_restarts_the_embedded_postgresql_after_a_sigkill(
    start: Start, data_dir: Path, workers: int
) -> None:
    service = start(data_dir=data_dir, workers=workers).until_ready()
    if workers > 1:
        until_heard(service, workers)
    before = workers_of(service)
    for _ in range(2):
        assert predicts(service)
        killed = time.monotonic()
        pid = kill_postmaster(data_dir)
        poll_until(lambda: predicts(service) and service.answers(), "predictions are stored again")
        assert time.monotonic() - killed < RECOVERY_SECONDS
        assert postmaster_of(data_dir) != pid
    assert all(predicts(service) for _ in range(8 * workers)), "each worker is connected again"
    assert workers_of(service) == before
    assert ends_logged(service) == [-signal.SIGKILL] * 2
    assert stored(data_dir) >= 4 + 8 * workers
    last = postmaster_of(data_dir)
    assert service.stop() == 0
    assert not is_alive(last)
    service.leaves_nothing()


def test_serve_restarts_the_embedded_postgresql_after_a_manual_stop(
    start: Start, data_dir: Path
) -> None:
    service = start(data_dir=data_dir).until_ready()
    pid = postmaster_of(data_dir)
    send(signal.SIGINT, [pid])  # pg_ctl stop -m fast
    until_another_is_ready(data_dir, pid)
    poll_until(lambda: predicts(service), "predictions are stored again")
    assert ends_logged(service) == [0]
    assert service.stop() == 0


def test_embedded_postgresql_after_a_restart_ends_with_a_killed_service(
    start: Start, data_dir: Path
) -> None:
    service = start(data_dir=data_dir).until_ready()
    pid = until_another_is_ready(data_dir, kill_postmaster(data_dir))
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    poll_until(lambda: not is_alive(pid), "PostgreSQL has ended with the service")


@pytest.mark.parametrize("seconds", [0, 0.02, 0.1])
def test_serve_at_sigterm_during_a_restart_of_the_embedded_postgresql_leaves_no_process(
    start: Start, data_dir: Path, seconds: float
) -> None:
    service = start(data_dir=data_dir, shutdown_delay=0).until_ready()
    kill_postmaster(data_dir)
    time.sleep(seconds)  # different moments of its start
    assert service.stop() == 0, service.errors
    service.leaves_nothing()
    assert not (data_dir / "postgres" / "postmaster.pid").exists() or not is_alive(
        postmaster_of(data_dir)
    )


@WORKERS
def test_serve_exits_with_the_reason_when_the_embedded_postgresql_ends_too_often(
    start: Start, data_dir: Path, workers: int
) -> None:
    service = start(data_dir=data_dir, workers=workers, shutdown_delay=0).until_ready()
    if workers > 1:
        until_heard(service, workers)
    pid = kill_postmaster(data_dir)
    for _ in range(MOST_ENDS - 1):
        assert service.process.poll() is None
        pid = until_another_is_ready(data_dir, pid)
        send(signal.SIGKILL, [pid])
    assert service.wait() == 1
    service.leaves_nothing()
    assert ends_logged(service) == [-signal.SIGKILL] * MOST_ENDS
    log = EmbeddedPostgres(data_dir / "postgres").log
    [said] = [text for text in service.errors.split("error: ") if "ended 5 times" in text]
    assert f"so the service stops. Signal 9 ended it (Killed). {log} says" in said
    assert said.count("database system is ready to accept connections") == 1, "of its last start"
    assert "Traceback" not in service.errors


def test_serve_exits_with_the_reason_when_the_embedded_postgresql_cannot_restart(
    start: Start, data_dir: Path
) -> None:
    service = start(data_dir=data_dir, shutdown_delay=0).until_ready()
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    kill_postmaster(data_dir)
    assert service.wait() == 1
    assert "could not find the database system" in service.errors
    assert "Traceback" not in service.errors


def test_provide_database_that_fails_quotes_this_start_alone_and_its_reason_first(
    data_dir: Path,
) -> None:
    server = EmbeddedPostgres(data_dir / "postgres")
    earlier = server.log.read_text().splitlines()
    with (server.folder / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("nonsense = 1\n")
    with (
        pytest.raises(ConfigurationError, match="set IRIS_DATABASE_URL") as raised,
        provide_database(Settings(data_dir=data_dir)),
    ):
        pass
    _, reason, other = str(raised.value).splitlines()
    assert "FATAL:  configuration file" in reason
    assert 'unrecognized configuration parameter "nonsense"' in other
    assert {reason, other}.isdisjoint(earlier)


def test_provide_database_that_takes_too_long_quotes_nothing_of_an_earlier_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = EmbeddedPostgres(data_dir / "postgres").log.read_text().splitlines()
    monkeypatch.setattr(postmaster, "_START_SECONDS", 0)
    monkeypatch.setattr(leftovers, "is_ready", lambda *_: False)
    with (
        pytest.raises(ConfigurationError, match="not ready after 0 s") as raised,
        provide_database(Settings(data_dir=data_dir)),
    ):
        pass
    assert set(earlier).isdisjoint(str(raised.value).splitlines())


def kill_too_often(data_dir: Path) -> None:
    """Run an embedded PostgreSQL in this process, and kill it until it is given up."""
    threads = threading.active_count()
    with provide_database(Settings(data_dir=data_dir)):
        pid = kill_postmaster(data_dir)
        for _ in range(MOST_ENDS - 1):
            pid = until_another_is_ready(data_dir, pid)
            os.kill(pid, signal.SIGKILL)
        poll_until(lambda: threading.active_count() == threads, "it is given up")


def test_provide_database_without_signal_handlers_raises_when_postgresql_ends_too_often(
    data_dir: Path,
) -> None:
    """SIGTERM would kill it, as it would kill Alembic's own command."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(ConfigurationError, match=f"ended {MOST_ENDS} times within"):
            kill_too_often(data_dir)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_provide_database_leaves_no_thread_and_no_process(data_dir: Path) -> None:
    threads = threading.active_count()
    with provide_database(Settings(data_dir=data_dir)):
        pid = postmaster_of(data_dir)
        assert is_alive(pid)
    assert not is_alive(pid)
    assert threading.active_count() == threads


async def kill_while_a_backend_works(data_dir: Path, dsn: str) -> None:
    worker, watcher = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    work = asyncio.create_task(worker.execute(BUSY))
    while await watcher.fetchval(AT_WORK, worker.get_server_pid()) == 0:
        await asyncio.sleep(0.02)
    pid = kill_postmaster(data_dir)
    await asyncio.to_thread(until_another_is_ready, data_dir, pid)
    await asyncio.wait([work])
    assert isinstance(work.exception(), (asyncpg.PostgresError, OSError, type(None)))
    for connection in (worker, watcher):
        connection.terminate()


def test_embedded_postgresql_restart_waits_for_the_backends_of_the_killed_postmaster(
    data_dir: Path,
) -> None:
    with provide_database(Settings(data_dir=data_dir)) as settings:
        assert settings.database_url is not None
        url = make_url(settings.database_url.get_secret_value())
        asyncio.run(kill_while_a_backend_works(data_dir, dsn_of(url)))
        execute(url, "SELECT 1")
    log = EmbeddedPostgres(data_dir / "postgres").log.read_text()
    assert "pre-existing shared memory block" in log
