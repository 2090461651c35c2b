"""A PostgreSQL that ends, falls silent, refuses, waits, or is out of space."""

import asyncio
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from tests.e2e.service import Service, poll_until
from tests.faults.conftest import OpenTrial
from tests.faults.load import Behaviour, Connection, Mix, ask_once, get, http
from tests.faults.postgres import Postgres
from tests.faults.processes import send
from tests.faults.trial import Trial, seconds
from tests.proxy import Proxy

REQUEST_SECONDS = 10 + 1  # IRIS_REQUEST_TIMEOUT, and what a machine at work adds
ALIVE_SECONDS = 2
RECOVERY_SECONDS = 5


def test_postgresql_is_restarted(open_trial: OpenTrial) -> None:
    trial = open_trial("pg_ctl restart -m immediate")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(20):
            trial.until_answered(200)
            trial.postgres.restart("immediate")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port)


def test_a_backend_is_killed(open_trial: OpenTrial) -> None:
    """PostgreSQL then ends all the others too, and recovers as after a crash."""
    trial = open_trial("SIGKILL of a backend")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(10, at_least=2):
            trial.until_answered(200)
            killed = time.monotonic()
            send(signal.SIGKILL, [random.choice(trial.postgres.backends())])
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port)


def test_postgresql_stands_still(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGSTOP of PostgreSQL")
    service = trial.serve()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(1):
            frozen = trial.postgres.freeze()
            try:
                outlast_silence(service, seconds(30, at_least=7))
            finally:
                send(signal.SIGCONT, frozen)
            waited = trial.until_recovered(service.port, since=time.monotonic())
            assert waited < RECOVERY_SECONDS
    assert_answered_in_time(trial, service)


def test_the_way_to_postgresql_swallows_everything(open_trial: OpenTrial) -> None:
    trial = open_trial("traffic to PostgreSQL dropped")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        with trial.load(service.port, beside=[staying_alive(service.port)]):
            for _ in trial.rounds(2):
                proxy.swallow()
                outlast_silence(service, seconds(15, at_least=7))
                proxy.recover()
                waited = trial.until_recovered(service.port, since=time.monotonic())
                assert waited < RECOVERY_SECONDS
        assert_answered_in_time(trial, service)


@contextmanager
def proxy_before(postgres: Postgres) -> Iterator[Proxy]:
    """A proxy in an event loop of its own, in a thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Proxy.before(postgres.url())) as proxy,
    ):
        yield proxy


def outlast_silence(service: Service, duration: float) -> None:
    """Have ``/readyz`` say again and again that PostgreSQL does not answer."""
    end = time.monotonic() + duration
    while time.monotonic() < end:
        asked = time.monotonic()
        ready = get(service.port, "/readyz")
        assert time.monotonic() - asked < REQUEST_SECONDS
        assert ready.status == 503
        assert "PostgreSQL" in ready.json()["detail"]


def staying_alive(port: int) -> Behaviour:
    """Ask ``/livez`` all the while."""

    async def behave(stopping: threading.Event) -> None:
        while not stopping.is_set():
            connection = await Connection.open(port)
            answer = await connection.ask(http("GET", "/livez"), ALIVE_SECONDS)
            connection.abort()
            assert answer.status == 200
            await asyncio.sleep(0.1)

    return behave


def assert_answered_in_time(trial: Trial, service: Service) -> None:
    verdict = trial.conclude(service.port)
    assert verdict.worst < REQUEST_SECONDS
    assert "unknown no answer" not in verdict.whys


def test_the_answer_to_a_commit_is_cut(open_trial: OpenTrial) -> None:
    trial = open_trial("commit's answer cut, predict")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        cut_one_by_one(trial, proxy, service, None)
        trial.go_on("commit's answer cut, batch")
        cut_one_by_one(trial, proxy, service, 50)
        trial.go_on("commit's answer cut under load")
        cut_under_load(trial, proxy, service)


def cut_one_by_one(trial: Trial, proxy: Proxy, service: Service, count: int | None) -> None:
    for _ in trial.rounds(20, at_least=3):
        request = trial.journal.new_request(count, keyed=True)
        proxy.cut_commit()
        outcome = ask_once(service.port, trial.journal, request)
        assert proxy.has_cut()
        assert (outcome.state, outcome.why) == ("unknown", "503 outcome-unknown")
        ended = time.monotonic()
        assert ask_once(service.port, trial.journal, request).state == "ok"
        trial.until_recovered(service.port, since=ended)
    trial.conclude(service.port)


def cut_under_load(trial: Trial, proxy: Proxy, service: Service) -> None:
    with trial.load(service.port, mix=Mix(batch_every=3)):
        for _ in trial.rounds(50, at_least=5):
            trial.until_answered(20)
            proxy.cut_commit()
            poll_until(proxy.has_cut, "a commit is cut")
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port)
    assert verdict.whys["unknown 503 outcome-unknown"] >= trial.times
    assert verdict.counts["ok"] + verdict.counts["unknown"] == verdict.requests, verdict.whys


def test_postgresql_takes_fewer_connections_than_the_pool_has(open_trial: OpenTrial) -> None:
    trial = open_trial("connection limit below the pool")
    limit = 3
    trial.postgres.execute(f"ALTER ROLE iris CONNECTION LIMIT {limit}")
    service = trial.serve()
    readers = [reading(service.port) for _ in range(8)]
    with trial.load(service.port, mix=Mix(batch_every=3), beside=readers):
        for _ in trial.rounds(1):
            end = time.monotonic() + seconds(10, at_least=3)
            while time.monotonic() < end:
                trial.until_answered(50)
                assert len(trial.postgres.backends()) <= limit
            trial.postgres.execute("ALTER ROLE iris CONNECTION LIMIT -1")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port)


def reading(port: int) -> Behaviour:
    """Read the history, page after page, over one connection after the other."""

    async def behave(stopping: threading.Event) -> None:
        while not stopping.is_set():
            connection = await Connection.open(port)
            answer = await connection.ask(http("GET", "/predictions?limit=100"))
            connection.abort()
            assert answer.status in {200, 503}, answer
            assert answer.status == 200 or "retry-after" in answer.headers

    return behave


def test_the_table_is_locked(open_trial: OpenTrial) -> None:
    trial = open_trial("table lock")
    service = trial.serve()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(1):
            trial.postgres.execute(
                "BEGIN; LOCK TABLE iris_predictions IN ACCESS EXCLUSIVE MODE; "
                f"SELECT pg_sleep({seconds(10, at_least=4)}); COMMIT"
            )
            trial.until_recovered(service.port, since=time.monotonic())
    assert_answered_in_time(trial, service)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_is_full(small_disk: Path, open_trial: OpenTrial) -> None:
    trial = open_trial("disk full", where=small_disk)
    service = trial.serve()
    ballast = small_disk / "ballast"
    with trial.load(service.port, mix=Mix(batch_every=3), beside=[staying_alive(service.port)]):
        for _ in trial.rounds(5):
            trial.until_answered(100)
            poll_until(lambda: is_refused_for_space(trial, service, ballast), "the disk is full")
            assert get(service.port, "/livez").status == 200
            trial.until_answered(100)
            ballast.unlink()
            freed = time.monotonic()
            if not trial.postgres.is_running():  # it ends where it cannot write its log
                trial.postgres.start()
            trial.until_recovered(service.port, since=freed)
    trial.conclude(service.port)


def is_refused_for_space(trial: Trial, service: Service, ballast: Path) -> bool:
    """Fill up what is free, then ask."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:  # no space left
            pass
    return ask_once(service.port, trial.journal).state != "ok"
