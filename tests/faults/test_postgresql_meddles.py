"""PostgreSQL drops rows, or cancels what the service has begun."""

import time

from tests.faults.asking import NOT_STORED, UNAVAILABLE, UNKNOWN
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.trial import Trial

EAT = """
    CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < 0.02 THEN RETURN NULL; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER eat BEFORE INSERT ON iris_predictions FOR EACH ROW EXECUTE FUNCTION eat();
"""
CANCEL = """
    DO $$
    BEGIN
        FOR round IN 1..200 LOOP
            PERFORM pg_cancel_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'iris-api' AND state <> 'idle';
            PERFORM pg_stat_clear_snapshot(), pg_sleep(0.0005);
        END LOOP;
    END $$
"""
EAGER = Mix(batch_every=3, pause=0)


def test_a_trigger_that_drops_one_row_of_fifty(open_trial: OpenTrial) -> None:
    trial = open_trial("a trigger eats one row of fifty")
    service = trial.serve()
    with trial.load(service.port, mixes=[Mix(batch_every=5)]):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(100)
            trial.postgres.execute(EAT)
            trial.until_answered(400)
            trial.postgres.execute("DROP FUNCTION eat CASCADE")
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, NOT_STORED)
    assert verdict.whys[NOT_STORED]


def test_transactions_are_cancelled_as_they_begin(open_trial: OpenTrial) -> None:
    trial = open_trial("cancelled BEGINs")
    service = trial.serve()
    with trial.load(service.port, mixes=[EAGER]):
        for _ in trial.rounds(20, at_least=4):
            trial.until_stored(50)
            cancel_until_refused(trial)
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, UNAVAILABLE, UNKNOWN)
    assert verdict.whys[UNAVAILABLE] >= trial.times


def cancel_until_refused(trial: Trial) -> None:
    """Cancel whatever the service does, until it has refused something because of it."""
    refused = trial.journal.counts["fail"]
    while trial.journal.counts["fail"] == refused:
        trial.postgres.execute(CANCEL)
