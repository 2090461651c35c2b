"""More clients than can be served, for a long while."""

import asyncio
import threading
import time
from dataclasses import replace
from statistics import median

from tests.faults.asking import OVERDUE, OVERLOADED
from tests.faults.conftest import OpenTrial
from tests.faults.journal import Journal
from tests.faults.load import Behaviour, Client, Mix, asking
from tests.faults.scale import seconds
from tests.faults.trial import POOL, Trial
from tests.support.processes import resident_bytes

MEBIBYTE = 2**20
_SLOW_COMMITS = """
    CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END';
    CREATE TRIGGER take_time AFTER INSERT ON iris_predictions
        FOR EACH STATEMENT EXECUTE FUNCTION take_time()
"""


def test_service_under_ten_times_its_capacity_refuses_in_time_and_keeps_its_memory(
    open_trial: OpenTrial,
) -> None:
    """Ten rows to a commit of 0.2 s make a capacity of 50/s, whatever the machine."""
    trial = open_trial("ten times the capacity")
    trial.postgres.execute(_SLOW_COMMITS)
    deadline = 10  # seconds, well beyond what a caller waits for its turn
    service = trial.serve(max_batch=10, request_timeout=deadline)
    impatient = Mix(batch_every=999, pause_after_failure=0.5, pause=0)
    crowd = [asking(service.port, trial.journal, impatient) for _ in range(1500)]
    big = [sending_big_bodies(service.port, trial.journal) for _ in range(8)]
    with trial.load(service.port, clients=10, beside=[*crowd, *big]):
        for _ in trial.rounds(1):
            time.sleep(seconds(10, at_least=5))  # what is measured is how it goes on after that
            memory = memory_of(trial, service.process.pid, seconds(50, at_least=8))
    trial.postgres.execute("DROP TRIGGER take_time ON iris_predictions")
    trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, OVERLOADED, OVERDUE, worst=deadline + 2)
    assert verdict.requests > 10 * verdict.counts["ok"]
    half = len(memory) // 2
    assert median(memory[half:]) < median(memory[:half]) + 30 * MEBIBYTE, memory


def memory_of(trial: Trial, worker: int, duration: float) -> list[int]:
    """What the worker holds, in bytes, several times a second; it keeps to its pool meanwhile."""
    memory = []
    end = time.monotonic() + duration
    while time.monotonic() < end:
        memory.append(resident_bytes(worker))
        assert len(trial.postgres.backends()) <= POOL
        time.sleep(0.1)
    return memory


def sending_big_bodies(port: int, journal: Journal) -> Behaviour:
    """Bodies of nearly the size that is allowed, every second or so."""

    async def behave(stopping: threading.Event) -> None:
        client = Client(port, journal)
        while not stopping.is_set():
            await client.ask(replace(journal.new_request(2), padding=4_000_000))
            await asyncio.sleep(1)
        client.close()

    return behave
