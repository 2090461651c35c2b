"""The suite can turn red: two ways to lose what was answered, and it finds both."""

import signal
import time

from tests.e2e.service import Service
from tests.faults import answers_early
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.trial import Trial

SINGLE = Mix(key_every=2, batch_every=10**9)


def test_a_commit_after_the_answer_is_found(open_trial: OpenTrial) -> None:
    trial = open_trial("(must lose) commit after the answer, SIGKILL")
    service = trial.serve(program=answers_early.__file__)
    with trial.load(service.port, mix=SINGLE):
        trial.until_answered(300)
    time.sleep(5 * answers_early.DELAY)  # the defect's own delay: no condition tells its end
    trial.judge().assert_promise_held()
    assert lost_by_kills(trial, service) > 0


def lost_by_kills(trial: Trial, service: Service) -> int:
    for _ in trial.rounds(2):
        with trial.load(service.port, mix=SINGLE):
            trial.until_answered(300)
            service.stop(signal.SIGKILL)
        service = trial.serve(port=service.port, program=answers_early.__file__)
    return len(trial.report().lost)


def test_a_commit_that_is_not_flushed_is_found(open_trial: OpenTrial) -> None:
    trial = open_trial(
        "(must lose) synchronous_commit off, SIGKILL of PostgreSQL",
        "wal_writer_delay=10s",
        "wal_writer_flush_after=1GB",
    )
    trial.postgres.execute("ALTER DATABASE iris SET synchronous_commit = off")
    service = trial.serve(allow_unsafe_database=True)
    for _ in trial.rounds(2):
        with trial.load(service.port):
            trial.until_answered(300)
            trial.postgres.kill()
        trial.postgres.start()
        trial.until_recovered(service.port, since=time.monotonic())
    assert len(trial.report().lost) > 0
