"""The embedded PostgreSQL is killed as the OOM killer does it, and the service starts it again."""

import time
from collections.abc import Callable

import pytest
from tests.faults.asking import UNAVAILABLE, UNKNOWN
from tests.faults.embedded import EmbeddedServer
from tests.faults.trial import POOL, Trial
from tests.support.service import poll_until

from iris_api.embedded.postmaster import MOST_ENDS, SECONDS_OF_ENDS

APART = SECONDS_OF_ENDS / (MOST_ENDS - 1) + 0.5
"""Seconds from one kill to the next, so that the service does not give the server up."""


@pytest.mark.parametrize("workers", [1, 2])
def test_embedded_postgresql_killed_under_load_loses_no_prediction(
    open_embedded_trial: Callable[[str], tuple[Trial, EmbeddedServer]], workers: int
) -> None:
    trial, server = open_embedded_trial(f"SIGKILL of the embedded postmaster, {workers} workers")
    service = trial.serve(workers=workers, **server.settings)
    may_be_killed = 0.0
    with trial.load(service.port):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(200)
            until(may_be_killed)
            killed = server.kill_postmaster()
            may_be_killed = killed + APART
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, backends=POOL * workers)
    assert service.stop() == 0


def until(moment: float) -> None:
    """Return at this moment of the monotonic clock."""
    poll_until(lambda: time.monotonic() >= moment, "the next kill is due")
