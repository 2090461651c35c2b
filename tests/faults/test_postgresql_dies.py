"""A PostgreSQL that ends: as a whole, in part, told or killed."""

import random
import signal
import time

from tests.faults.asking import UNAVAILABLE, UNKNOWN
from tests.faults.conftest import OpenTrial
from tests.faults.pooling import HELD_UP
from tests.faults.storms import LAZY_LOG, kill_postgresql
from tests.support.processes import send


def test_postgresql_restarted_under_load_loses_no_prediction(open_trial: OpenTrial) -> None:
    trial = open_trial("pg_ctl restart -m immediate")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(20):
            trial.until_stored(200)
            trial.postgres.restart("immediate")
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)


def test_postgresql_killed_under_load_loses_no_prediction(open_trial: OpenTrial) -> None:
    """As the test does that must lose, but with PostgreSQL's own ``synchronous_commit``."""
    trial = open_trial("SIGKILL of PostgreSQL", *LAZY_LOG)
    service = trial.serve()
    kill_postgresql(trial, service, 10, at_least=2)
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)


def test_postgresql_backend_killed_under_load_loses_no_prediction(open_trial: OpenTrial) -> None:
    """PostgreSQL then ends all the others too, and recovers as after a crash."""
    trial = open_trial("SIGKILL of a backend")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(10, at_least=2):
            trial.until_stored(200)
            killed = time.monotonic()
            send(signal.SIGKILL, [random.choice(trial.postgres.backends())])
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)
