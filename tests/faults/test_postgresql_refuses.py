"""A PostgreSQL that answers, and does not do what is asked: there is no room, a lock, no right."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.asking import OVERLOADED, UNAVAILABLE, UNKNOWN
from tests.faults.beside import reading, staying_alive
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.scale import seconds
from tests.faults.trial import Trial
from tests.support.disks import small_folder
from tests.support.service import Service, poll_until
from tests.support.service_processes import assert_not_ready, is_not_ready
from tests.support.wire import get


def test_postgresql_with_a_connection_limit_below_the_pool_loses_no_prediction(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("connection limit below the pool", unpooled="it has connections of its own")
    trial.postgres.execute("ALTER ROLE iris CONNECTION LIMIT 3")
    service = trial.serve()
    readers = [reading(service.port) for _ in range(8)]
    with trial.load(service.port, mixes=[Mix(batch_every=3)], beside=readers):
        for _ in trial.rounds(1):
            end = time.monotonic() + seconds(10, at_least=3)
            while time.monotonic() < end:
                trial.until_stored(50)
            trial.postgres.execute("ALTER ROLE iris CONNECTION LIMIT -1")
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, UNAVAILABLE)
    assert "too many connections for role" in trial.postgres.log.read_text()
    assert verdict.whys[UNAVAILABLE] > 0, "the limit was none"


def test_postgresql_with_a_locked_table_makes_the_service_not_ready_until_released(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("table lock")
    service = trial.serve()
    mixes = [Mix(key_every=3, batch_every=3)]  # never both
    with trial.load(service.port, mixes=mixes, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(1):
            trial.until_stored(100)
            with trial.postgres.holding("LOCK TABLE iris_predictions IN ACCESS EXCLUSIVE MODE"):
                outlast_refusals(trial, service, seconds(10, at_least=4), "SQLSTATE 55P03")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE, OVERLOADED)


def outlast_refusals(trial: Trial, service: Service, duration: float, *words: str) -> None:
    """See for so long that predictions fail, and that ``/readyz`` then says why."""
    end = time.monotonic() + duration
    while time.monotonic() < end:
        assert trial.probe(service.port).state == "fail"
        assert_not_ready(service.port, *words)


def test_postgresql_that_is_read_only_makes_the_service_not_ready_until_writable(
    open_trial: OpenTrial,
) -> None:
    """As a primary does that has been made a standby while its connections stay open."""
    trial = open_trial("read-only")
    service = trial.serve()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(200)
            trial.postgres.set("default_transaction_read_only", "on")
            poll_until(lambda: trial.probe(service.port).state == "fail", "nothing is stored")
            outlast_refusals(trial, service, 1, "takes no writes")
            trial.postgres.set("default_transaction_read_only", "off")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_folder(tmp_path / "disk", "160m") as folder:
        yield folder


def test_postgresql_with_a_full_disk_makes_the_service_not_ready_until_freed(
    small_disk: Path, open_trial: OpenTrial
) -> None:
    trial = open_trial("disk full", where=small_disk)
    service = trial.serve()
    ballast = small_disk / "ballast"
    mixes = [Mix(batch_every=3)]
    with trial.load(service.port, mixes=mixes, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(5):
            trial.until_stored(100)
            poll_until(lambda: is_refused_for_space(trial, service, ballast), "the disk is full")
            trial.until_answered(100)
            ballast.unlink()
            freed = time.monotonic()
            if not trial.postgres.is_running():  # it ends where it cannot write its log
                trial.postgres.start()
            trial.until_recovered(service.port, since=freed)
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN)


def is_refused_for_space(trial: Trial, service: Service, ballast: Path) -> bool:
    """Fill up what is free; see that predictions fail, and that ``/readyz`` says why."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:  # no space left
            pass
    if trial.probe(service.port).state == "ok":
        return False
    # Where it was not PostgreSQL's last word, another's smaller row may have found room since.
    return is_not_ready(
        get(service.port, "/readyz"), "SQLSTATE 53100", "cannot be reached", "disconnected"
    )
