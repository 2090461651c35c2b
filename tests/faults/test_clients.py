"""Clients that vanish, that are slow, that are too many, that send too much."""

import asyncio
import math
import random
import threading
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tests.faults.conftest import OpenTrial
from tests.faults.journal import Journal, Outcome
from tests.faults.load import Behaviour, Client, Connection, LostError, Mix, asking, http, run
from tests.faults.processes import forget_peak, peak_bytes, resident_bytes
from tests.faults.trial import POOL, Trial, scaled, seconds

T = TypeVar("T")

MEBIBYTE = 2**20
VANISHED = "vanished"


def test_clients_vanish(open_trial: OpenTrial) -> None:
    trial = open_trial("clients that vanish")
    service = trial.serve()
    parts = ["half the headers", "half the body", "all"]
    at_once = 50
    with trial.load(service.port):
        for _ in trial.rounds(10, at_least=2):
            group = [parts[number % len(parts)] for number in range(at_once)]
            run(together(vanish(service.port, trial.journal, part) for part in group))
            trial.until_answered(50)
    trial.until_recovered(service.port, since=time.monotonic())
    assert_others_are_served(trial, service.port, VANISHED)


async def vanish(port: int, journal: Journal, part: str) -> None:
    """Send a part of a request, and hang up. Only what came whole may be stored."""
    request = journal.new_request(random.choice([None, 20]))
    whole = http("POST", request.path, request.headers, request.body)
    headers = len(whole) - len(request.body)
    length = {
        "half the headers": headers // 2,
        "half the body": headers + len(request.body) // 2,
        "all": len(whole),
    }[part]
    connection = await Connection.open(port)
    journal.sent(request)
    connection.send(whole[:length])
    await asyncio.sleep(random.uniform(0, 0.01))  # some before, some during the work for it
    connection.abort()
    why = f"{VANISHED} after {part}"
    journal.ended(request, Outcome("unknown" if part == "all" else "fail", 0, why))


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*coroutines)


def assert_others_are_served(trial: Trial, port: int, besides: str) -> None:
    verdict = trial.conclude(port)
    assert all(why == "ok" or besides in why for why in verdict.whys), verdict.whys


@dataclass(frozen=True)
class Slow:
    """How a slow client was got rid of: by which status, 0 for a bare close, and after how long."""

    status: int
    seconds: float


def test_clients_are_slow(open_trial: OpenTrial) -> None:
    trial = open_trial("slow clients")
    allowed = 2
    service = trial.serve(header_timeout=allowed, body_timeout=allowed)
    clients = scaled(1000, at_least=100)
    announced = {"Content-Type": "application/json", "Content-Length": "1000"}
    headers = http("POST", "/predict", announced)
    with trial.load(service.port):
        for _ in trial.rounds(1):
            in_headers = [be_slow(service.port, b"", headers) for _ in range(clients // 2)]
            in_body = [be_slow(service.port, headers, b"{" + b" " * 999) for _ in in_headers]
            ends = run(together([*in_headers, *in_body]))
            trial.until_recovered(service.port, since=time.monotonic())
    assert_others_are_served(trial, service.port, "no other")
    assert {end.status for end in ends} <= {0, 408}
    assert max(end.seconds for end in ends) < allowed + 2


async def be_slow(port: int, at_once: bytes, slowly: bytes) -> Slow:
    """Send a part at once, the rest a byte a second."""
    connection = await Connection.open(port)
    began = time.monotonic()
    answer = asyncio.ensure_future(connection.ask(at_once))
    for byte in slowly:
        done, _ = await asyncio.wait([answer], timeout=1)
        if done:
            break
        connection.send(bytes([byte]))
    took = time.monotonic() - began
    try:
        end = await answer
    except LostError:
        return Slow(0, took)
    connection.abort()
    assert end.headers["content-type"] == "application/problem+json"
    return Slow(end.status, took)


_SLOW_COMMITS = """
    CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END';
    CREATE TRIGGER take_time AFTER INSERT ON iris_predictions
        FOR EACH STATEMENT EXECUTE FUNCTION take_time()
"""


def test_ten_times_the_capacity_is_asked_for(open_trial: OpenTrial) -> None:
    """Ten rows to a commit of 0.1 s make a capacity of 100/s, whatever the machine."""
    trial = open_trial("ten times the capacity")
    trial.postgres.execute(_SLOW_COMMITS)
    deadline = scaled(10, at_least=4)  # seconds; 10 by default
    service = trial.serve(max_batch=10, request_timeout=deadline)
    impatient = Mix(batch_every=999, pause_after_failure=0.5, pause=0)
    crowd = [asking(service.port, trial.journal, impatient) for _ in range(1500)]
    big = [sending_big_bodies(service.port, trial.journal) for _ in range(8)]
    with trial.load(service.port, clients=10, beside=[*crowd, *big]):
        for _ in trial.rounds(1):
            time.sleep(seconds(10, at_least=3))  # what is measured is how it goes on after that
            before = resident_bytes(service.process.pid)
            end = time.monotonic() + seconds(50, at_least=6)
            while time.monotonic() < end:
                assert len(trial.postgres.backends()) <= POOL
                trial.until_answered(100)
            after = resident_bytes(service.process.pid)
    trial.postgres.execute("DROP TRIGGER take_time ON iris_predictions")
    trial.until_recovered(service.port, since=time.monotonic())
    verdict = trial.conclude(service.port)
    assert after < max(before * 1.1, before + 30 * MEBIBYTE), (before, after)
    assert all(why == "ok" or "503" in why or "429" in why for why in verdict.whys), verdict.whys
    assert verdict.requests > 5 * verdict.counts["ok"]
    assert verdict.p99 < deadline + 2


def sending_big_bodies(port: int, journal: Journal) -> Behaviour:
    """Bodies of nearly the size that is allowed, every second or so."""

    async def behave(stopping: threading.Event) -> None:
        client = Client(port, journal)
        while not stopping.is_set():
            await client.ask(replace(journal.new_request(2), padding=4_000_000))
            await asyncio.sleep(1)
        client.close()

    return behave


def test_a_large_body_costs_no_memory(open_trial: OpenTrial) -> None:
    trial = open_trial("body of 100 MB")
    service = trial.serve()
    worker = service.process.pid
    trial.until_recovered(service.port, since=time.monotonic())
    trial.recoveries.clear()
    before = resident_bytes(worker)
    forget_peak(worker)
    for _ in trial.rounds(3):
        assert run(pour(service.port, 100 * MEBIBYTE)).startswith(b"HTTP/1.1 413 ")
        trial.until_recovered(service.port, since=time.monotonic())
    assert peak_bytes(worker) - before < 10 * MEBIBYTE
    trial.conclude(service.port)


async def pour(port: int, length: int) -> bytes:
    """Send a body in chunks until it is answered; return what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    writer.write(http("POST", "/predict", headers))
    answer = asyncio.ensure_future(reader.read(MEBIBYTE))
    chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
    try:
        for _ in range(math.ceil(length / 65536)):
            if answer.done():
                break
            writer.write(chunk)
            await writer.drain()
        return await asyncio.wait_for(answer, 30)
    finally:
        writer.transport.abort()
