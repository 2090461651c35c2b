"""PostgreSQL drops rows, or cancels what the service has begun."""

import time

from tests.faults.asking import NOT_STORED, UNAVAILABLE
from tests.faults.beside import proxy_before, reading
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.support.service import poll_until

EAT = """
    CREATE FUNCTION eat() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < 0.02 THEN RETURN NULL; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER eat BEFORE INSERT ON iris_predictions FOR EACH ROW EXECUTE FUNCTION eat();
"""

# DROP TRIGGER alone locks the partitions before their table, and would deadlock with INSERTs.
SPARE = """
    LOCK TABLE iris_predictions IN ACCESS EXCLUSIVE MODE;
    DROP FUNCTION eat CASCADE;
"""


def test_postgresql_trigger_that_drops_rows_makes_only_those_not_stored(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("a trigger eats one row of fifty")
    service = trial.serve()
    with trial.load(service.port, mixes=[Mix(batch_every=5)]):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(100)
            trial.postgres.execute(EAT)
            trial.until_answered(400)
            trial.postgres.execute(SPARE)
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, NOT_STORED)
    assert verdict.whys[NOT_STORED]


def test_postgresql_that_cancels_begin_commit_or_rollback_loses_no_prediction(
    open_trial: OpenTrial,
) -> None:
    """And as they end. The proxy answers as PostgreSQL does after a pg_cancel_backend() in time."""
    trial = open_trial("cancelled BEGINs, COMMITs and ROLLBACKs")
    with proxy_before(trial.postgres) as proxy:
        service = trial.serve(proxy.port)
        with trial.load(service.port, mixes=[Mix(batch_every=3)], beside=[reading(service.port)]):
            for turn in trial.rounds(30, at_least=3):
                trial.until_stored(20)
                proxy.refuse(("BEGIN", "COMMIT", "ROLLBACK")[turn % 3])
                poll_until(proxy.has_refused, "a transaction is cancelled")
                trial.until_recovered(service.port, since=time.monotonic())
                trial.until_stored(20)
        trial.conclude(service.port, UNAVAILABLE)
