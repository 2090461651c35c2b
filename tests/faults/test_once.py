"""One request, many copies; and many requests, one of which must not harm the others."""

import asyncio
import random
import time
from collections.abc import Sequence

import asyncpg
from tests.faults.conftest import OpenTrial
from tests.faults.journal import Journal, Outcome, Request, flower
from tests.faults.load import Answer, Client, Connection, ask_once, http, run
from tests.faults.postgres import Postgres
from tests.faults.trial import POOL, Trial

PROCESSES = 3
COPIES = 100


def test_equal_keys_at_once(open_trial: OpenTrial) -> None:
    trial = open_trial("equal keys at once, predict")
    services = [trial.start() for _ in range(PROCESSES)]
    ports = [service.until_ready().port for service in services]
    send_copies(trial, ports, None)
    trial.go_on("equal keys at once, batch")
    send_copies(trial, ports, 20)


def send_copies(trial: Trial, ports: Sequence[int], count: int | None) -> None:
    for _ in trial.rounds(10, at_least=2):
        request = trial.journal.new_request(count, keyed=True)
        answers = run(copies(ports, trial.journal, request))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        other = trial.journal.new_request(count)
        reused = Request(other.number, count, request.key)
        outcome = ask_once(random.choice(ports), trial.journal, reused)
        assert (outcome.state, outcome.why) == ("fail", "422 idempotency-key-reused")
    trial.until_recovered(*ports, since=time.monotonic())
    trial.conclude(ports[0], backends=PROCESSES * POOL)


async def copies(ports: Sequence[int], journal: Journal, request: Request) -> list[Answer]:
    """Send the request many times at the same time, each over a connection of its own."""

    async def one(port: int) -> Answer:
        client = Client(port, journal)
        outcome, answer = await client.exchange(request)
        journal.ended(request, outcome)
        client.close()
        assert answer is not None, outcome
        return answer

    journal.sent(request)
    return await asyncio.gather(*(one(ports[number % len(ports)]) for number in range(COPIES)))


def test_the_neighbours_of_a_poison_row_are_stored(open_trial: OpenTrial) -> None:
    trial = open_trial("neighbours of a poison row")
    poison = [trial.journal.new_request() for _ in trial.rounds(100, at_least=10)]
    measures = ", ".join(f"{flower(request.number)['sepal_length']}" for request in poison)
    trial.postgres.execute(
        f"ALTER TABLE iris_predictions ADD CHECK (sepal_length NOT IN ({measures}))"
    )
    service = trial.serve()
    with trial.load(service.port):
        for request in poison:
            outcome = ask_once(service.port, trial.journal, request)
            assert (outcome.state, outcome.why) == ("fail", "500 internal-error")
    trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port)
    assert verdict.counts["ok"] == verdict.requests - len(poison), verdict.whys


def test_the_neighbours_of_callers_that_left_are_stored(open_trial: OpenTrial) -> None:
    trial = open_trial("neighbours of callers that left")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(10, at_least=2):
            trial.until_answered(100)
            run(leave_while_the_table_is_locked(trial.postgres, service.port, trial.journal))
            trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port)
    assert all(why == "ok" or "left" in why for why in verdict.whys), verdict.whys


async def leave_while_the_table_is_locked(postgres: Postgres, port: int, journal: Journal) -> None:
    """Hold all groups up for a moment, and hang up on half of those that wait."""
    connection = await postgres.connect()
    async with connection.transaction():
        await connection.execute("LOCK TABLE iris_predictions IN ACCESS EXCLUSIVE MODE")
        requests = [journal.new_request(keyed=bool(number % 2)) for number in range(20)]
        staying = [Client(port, journal) for _ in requests]
        outcomes = [asyncio.ensure_future(client.ask(journal.new_request())) for client in staying]
        for request in requests:
            leaving = await Connection.open(port)
            journal.sent(request)
            leaving.send(http("POST", request.path, request.headers, request.body))
            await until_waiting(connection)
            leaving.abort()
            journal.ended(request, Outcome("unknown", 0, "left"))
    await connection.close()
    for client, outcome in zip(staying, outcomes, strict=True):
        assert (await outcome).state == "ok"
        client.close()


async def until_waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Return when one of the service's statements waits for the lock."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'iris-api' AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while not await connection.fetchval(query):
            await asyncio.sleep(0.005)
