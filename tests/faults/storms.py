"""Storms that more than one test raises."""

import time

from tests.faults.trial import Trial
from tests.support.service import Service

LAZY_LOG = ("wal_writer_delay=10s", "wal_writer_flush_after=1GB")
"""PostgreSQL writes its log to the disk when a commit waits for that, and else hardly ever."""


def kill_postgresql(trial: Trial, service: Service, number: int, *, at_least: int) -> None:
    """Kill all of PostgreSQL under load, again and again, and start it anew each time."""
    with trial.load(service.port):
        for _ in trial.rounds(number, at_least=at_least):
            trial.until_stored(200)
            trial.postgres.kill()
            trial.postgres.start()
            trial.until_recovered(service.port, since=time.monotonic())
