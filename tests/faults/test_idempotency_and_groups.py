"""One request, many copies; and many requests, one of which must not harm the others."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
from tests.faults.asking import NOT_STORED, Outcome, Request, flower
from tests.faults.conftest import OpenTrial
from tests.faults.journal import Journal
from tests.faults.load import Client
from tests.faults.postgres import Postgres
from tests.faults.trial import POOL, Trial
from tests.support.answers import Answer
from tests.support.wire import Connection, http, run

PROCESSES = 3
COPIES = 100
REUSED = "fail 422 idempotency-key-reused"
LEFT = "left"
NEIGHBOURS = 20


def test_predict_with_100_concurrent_equal_idempotency_keys_stores_once(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("equal keys at once, predict")
    waits = ("database_lock", "database_command", "request")
    patient: dict[str, Any] = {f"{wait}_timeout": 30 for wait in waits}
    services = [trial.start(**patient) for _ in range(PROCESSES)]
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
        assert trial.probe(random.choice(ports), reused).text == REUSED
    trial.until_recovered(*ports, since=time.monotonic())
    trial.conclude(ports[0], REUSED, backends=PROCESSES * POOL)


async def copies(ports: Sequence[int], journal: Journal, request: Request) -> list[Answer]:
    """Send the request over many connections at the same time, for all are open before."""
    clients = [Client(ports[number % len(ports)], journal) for number in range(COPIES)]
    await asyncio.gather(*(client.connect() for client in clients))
    answers = await asyncio.gather(*(client.ask_and_look(request) for client in clients))
    for client in clients:
        client.close()
    return answers


def test_group_with_a_row_that_postgresql_refuses_stores_the_other_rows(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("neighbours of a poison row")
    poison = [trial.journal.new_request() for _ in trial.rounds(100, at_least=10)]
    measures = ", ".join(f"{flower(request.number)['sepal_length']}" for request in poison)
    trial.postgres.execute(
        f"ALTER TABLE iris_predictions ADD CHECK (sepal_length NOT IN ({measures}))"
    )
    service = trial.serve()
    with trial.load(service.port):
        for request in poison:
            assert trial.probe(service.port, request).text == NOT_STORED
    trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port, NOT_STORED)
    assert verdict.whys[NOT_STORED] == len(poison)


def test_group_with_aborted_connections_stores_the_other_rows(open_trial: OpenTrial) -> None:
    trial = open_trial("neighbours of callers that left")
    service = trial.serve()
    for _ in trial.rounds(10, at_least=2):
        run(leave_while_the_table_is_locked(trial.postgres, service.port, trial.journal))
        trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, f"unknown {LEFT}")


async def leave_while_the_table_is_locked(postgres: Postgres, port: int, journal: Journal) -> None:
    """Hold all groups up for a moment, and hang up on half of those that wait.

    One of these is in the group that PostgreSQL has been given, the others are still to be.
    """
    connection = await postgres.connect()
    before = await rows_classified(port)
    async with connection.transaction():
        await connection.execute("LOCK TABLE iris_predictions IN ACCESS EXCLUSIVE MODE")
        leaving = [await begin(port, journal, keyed=False)]
        await until_waiting(connection)
        staying = [Client(port, journal) for _ in range(NEIGHBOURS)]
        outcomes = []
        for number, client in enumerate(staying):
            outcomes.append(asyncio.ensure_future(client.ask(journal.new_request())))
            leaving.append(await begin(port, journal, keyed=bool(number % 2)))
        async with asyncio.timeout(10):
            while await rows_classified(port) < before + len(staying) + len(leaving):
                await asyncio.sleep(0.005)
        for attempt, gone in leaving:
            gone.abort()
            journal.ended(attempt, Outcome("unknown", 0, LEFT))
    await connection.close()
    for client, outcome in zip(staying, outcomes, strict=True):
        assert (await outcome).state == "ok"
        client.close()


async def begin(port: int, journal: Journal, *, keyed: bool) -> tuple[int, Connection]:
    """Send a request, and do not wait for its answer; return the attempt, and its connection."""
    request = journal.new_request(keyed=keyed)
    connection = await Connection.open(port)
    attempt = journal.sent(request)
    connection.send(http("POST", request.path, request.headers, request.body))
    return attempt, connection


async def until_waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Return when one of the service's statements waits for the lock."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'iris-api' AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(10):
        while not await connection.fetchval(query):
            await asyncio.sleep(0.005)


async def rows_classified(port: int) -> float:
    """How many flowers the model has been asked about; what comes next is to store them."""
    connection = await Connection.open(port)
    answer = await connection.ask(http("GET", "/metrics"))
    connection.abort()
    [rows] = re.findall(rb"^iris_inference_rows_sum (\S+)$", answer.body, re.MULTILINE)
    return float(rows)
