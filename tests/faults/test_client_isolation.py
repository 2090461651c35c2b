"""Two clients with keys of their own, in one storm: each has its rows, and none of the other's."""

import asyncio
import random
import signal
import time

from tests.conftest import settings_for
from tests.faults.asking import UNAVAILABLE, UNKNOWN, Caller
from tests.faults.conftest import OpenTrial
from tests.faults.load import Mix
from tests.faults.pooling import HELD_UP
from tests.faults.trial import Trial
from tests.support.answers import Answer
from tests.support.application import make_key
from tests.support.processes import send
from tests.support.wire import get


def test_history_of_two_clients_in_the_same_groups_holds_only_their_own_rows(
    open_trial: OpenTrial,
) -> None:
    """Their rows travel in the same groups, and their Idempotency-Keys are the same words."""
    trial = open_trial("two clients, SIGKILL of a backend")
    callers = [make_caller(trial, name) for name in ("acme", "umbrella")]
    service = trial.serve(auth="keys")
    trial.caller = callers[0]
    with trial.load(service.port, mixes=[Mix(batch_every=5, caller=caller) for caller in callers]):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(200)
            killed = time.monotonic()
            send(signal.SIGKILL, [random.choice(trial.postgres.backends())])
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port, UNAVAILABLE, UNKNOWN, *HELD_UP)
    for caller, other in zip(callers, reversed(callers), strict=True):
        assert_sees_its_own(trial, service.port, caller, other)


def make_caller(trial: Trial, name: str) -> Caller:
    headers = asyncio.run(make_key(settings_for(trial.postgres.url()), name))
    return Caller(name, headers["Authorization"].removeprefix("Bearer "))


def assert_sees_its_own(trial: Trial, port: int, caller: Caller, other: Caller) -> None:
    """The history holds all that the table has of this client, once, and nothing else."""
    rows = trial.postgres.predictions()
    own = [row.id for row in rows if row.client == caller.name]
    others = [row.id for row in rows if row.client == other.name]
    assert own
    assert len(own) + len(others) == len(rows)
    assert sorted(history(port, caller)) == sorted(own)
    assert ask(port, f"/predictions/{random.choice(own)}", caller).status == 200
    for row_id in random.sample(others, 20):
        assert ask(port, f"/predictions/{row_id}", caller).status == 404


def history(port: int, caller: Caller) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    cursor = ""
    while True:
        page = ask(port, f"/predictions?limit=1000{cursor}", caller).json()
        ids += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={page['next_cursor']}"


def ask(port: int, path: str, caller: Caller) -> Answer:
    return get(port, path, caller.headers)
