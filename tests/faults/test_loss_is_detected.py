"""The suite can turn red: two ways to lose what was answered, and it finds both."""

import signal

import pytest
from tests.faults import answers_early
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.storms import LAZY_LOG, kill_postgresql
from tests.faults.trial import Trial
from tests.support.service import Service

MOST_KILLS = 60
CONTROL = "what is found here is found at any PostgreSQL"


def assert_found(trial: Trial) -> None:
    """Hold the promise against what was found: it does not hold."""
    with pytest.raises(AssertionError, match="'lost'"):
        trial.report().assert_promise_held()


def test_service_that_commits_after_the_response_is_found_to_lose_predictions(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("(must lose) commit after the answer, SIGKILL", unpooled=CONTROL)
    service = serve_early(trial)
    with trial.load(service.port):
        trial.until_stored(300)
    assert service.stop() == 0
    trial.judge().assert_promise_held()
    kill_until_something_is_lost(trial, service.port)
    assert_found(trial)


def kill_until_something_is_lost(trial: Trial, port: int) -> None:
    """Four kills, as a rule (1 to 13, in ten runs): a commit has to be due at that very moment."""
    while not trial.judge().lost:
        assert trial.times < MOST_KILLS, "nothing is lost"
        trial.times += 1
        service = serve_early(trial, port)
        with trial.load(port, mixes=[Mix(pause=0)]):
            trial.until_stored(200)
            service.stop(signal.SIGKILL)


def serve_early(trial: Trial, port: int | None = None) -> Service:
    settings = {"database_pgbouncer": True, **({} if port is None else {"port": port})}
    return trial.serve(program=answers_early.__file__, **settings)


def test_postgresql_with_synchronous_commit_off_is_found_to_lose_predictions(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial(
        "(must lose) synchronous_commit off, SIGKILL of PostgreSQL", *LAZY_LOG, unpooled=CONTROL
    )
    trial.postgres.execute("ALTER DATABASE iris SET synchronous_commit = off")
    service = trial.serve(allow_unsafe_database=True)
    kill_postgresql(trial, service, 2, at_least=2)
    assert_found(trial)
