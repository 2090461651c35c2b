"""Another server takes PostgreSQL's place: one that has all of it, or one that would lose some."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faults.asking import UNAVAILABLE, UNKNOWN, UNSAFE
from tests.faults.beside import outlast, proxy_before, staying_alive
from tests.faults.conftest import OpenTrial
from tests.faults.pooling import HELD_UP
from tests.faults.postgres import Postgres
from tests.faults.scale import seconds
from tests.faults.trial import Trial
from tests.support.proxy import Proxy
from tests.support.service import Service, assert_one_clear_sentence, poll_until


def test_failover_to_a_synchronous_standby_loses_no_prediction(open_trial: OpenTrial) -> None:
    trial = open_trial("failover to a standby")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        with trial.load(service.port, beside=[staying_alive(service.port)]):
            for _ in trial.rounds(5):
                with following(trial) as standby:
                    trial.until_stored(200)
                    trial.postgres.kill()
                    standby.promote()
                    promoted = time.monotonic()
                    proxy.point_at(standby.url())
                    trial.until_recovered(service.port, since=promoted)
        trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)
        trial.go_on("standby reached before its promotion")
        reach_standbys_too_early(trial, proxy, service)


def reach_standbys_too_early(trial: Trial, proxy: Proxy, service: Service) -> None:
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(3):
            with following(trial) as standby:
                trial.until_stored(200)
                proxy.point_at(standby.url())
                trial.postgres.kill()
                poll_until(lambda: trial.probe(service.port).state == "fail", "it is noticed")
                outlast(service.port, seconds(3, at_least=1), "takes no writes")
                standby.promote()
                trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)


@contextmanager
def following(trial: Trial) -> Iterator[Postgres]:
    """A standby, without which the primary confirms nothing; the block makes it the primary."""
    primary = trial.postgres
    primary.set("synchronous_standby_names", "")  # which the standby inherits
    standby = Postgres.standby_of(primary, Path(f"{primary.folder}+"))
    try:
        standby.start()
        primary.set("synchronous_standby_names", "*")
        followers = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        poll_until(lambda: primary.value(followers) == 1, "the standby follows")
        yield standby
    except BaseException:
        standby.clean_up()
        raise
    trial.postgres = standby
    primary.clean_up()


@pytest.mark.parametrize("parameter", ["fsync", "full_page_writes", "synchronous_commit"])
def test_failover_to_a_server_with_unsafe_settings_is_database_unsafe(
    open_trial: OpenTrial, parameter: str
) -> None:
    """At the start, and where it takes the place of another later on."""
    trial = open_trial(f"failover, {parameter} off", f"{parameter}=off")
    refused = trial.start()
    assert refused.wait() == 1
    assert_one_clear_sentence(refused.errors, f"{parameter} off", "IRIS_ALLOW_UNSAFE_DATABASE")
    start_anew(trial.postgres, f"{parameter}=on")
    service = trial.serve()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(2):
            trial.until_stored(100)
            start_anew(trial.postgres, f"{parameter}=off")
            poll_until(lambda: trial.probe(service.port).text == UNSAFE, "it is noticed")
            outlast(service.port, 1, f"{parameter} off")
            start_anew(trial.postgres, f"{parameter}=on")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, UNSAFE, *HELD_UP)


def start_anew(postgres: Postgres, option: str) -> None:
    """Have another server, in effect, at the same address: connections to the former have ended."""
    postgres.stop("fast")
    postgres.start(option)
