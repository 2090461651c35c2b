"""A PostgreSQL that says nothing any more, though no connection has ended."""

import signal
import time

from tests.faults.asking import OVERLOADED, UNAVAILABLE, UNKNOWN
from tests.faults.beside import outlast, proxy_before, reading, staying_alive
from tests.faults.conftest import OpenTrial
from tests.faults.load import Crowd
from tests.faults.scale import seconds
from tests.faults.trial import POOL, Trial
from tests.support.processes import send
from tests.support.service import Service, poll_until


def test_postgresql_at_sigstop_makes_the_service_not_ready_until_sigcont(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("SIGSTOP of PostgreSQL")
    service = trial.serve()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(1):
            frozen = trial.postgres.freeze()
            try:
                outlast(service.port, seconds(30, at_least=7), "PostgreSQL did not answer")
            finally:
                send(signal.SIGCONT, frozen)
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, OVERLOADED)


def test_postgresql_behind_a_network_that_drops_traffic_makes_the_service_not_ready(
    open_trial: OpenTrial,
) -> None:
    """What was open then is never heard of again: a network forgets connections."""
    trial = open_trial("traffic to PostgreSQL dropped", unpooled="PgBouncer notices by itself")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        with trial.load(service.port, beside=[staying_alive(service.port)]):
            for _ in trial.rounds(2):
                trial.until_stored(200)
                fill_pool(trial, service)
                proxy.swallow()
                outlast(service.port, seconds(15, at_least=7), "PostgreSQL did not answer")
                proxy.recover_for_others()
                trial.until_recovered(service.port, since=time.monotonic())
                proxy.bury()  # PostgreSQL would find out by itself, but some 25 s later
        trial.conclude(service.port, UNAVAILABLE, UNKNOWN, OVERLOADED)


def fill_pool(trial: Trial, service: Service) -> None:
    """Have all of the pool's connections open, though few are needed afterwards."""
    with Crowd([reading(service.port) for _ in range(2 * POOL)]):
        poll_until(lambda: len(trial.postgres.backends()) == POOL, "the pool is full")
