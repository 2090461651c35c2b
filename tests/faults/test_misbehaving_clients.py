"""Clients that vanish, that are slow, that send too much."""

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.faults.asking import Outcome, State
from tests.faults.conftest import OpenTrial
from tests.faults.journal import Journal
from tests.faults.scale import scaled
from tests.support.processes import forget_peak, peak_bytes, resident_bytes
from tests.support.wire import Connection, http, run

T = TypeVar("T")

MEBIBYTE = 2**20
VANISHED: dict[str, tuple[State, str]] = {
    "half the headers": ("fail", "vanished in the headers"),
    "half the body": ("fail", "vanished in the body"),
    "all": ("unknown", "vanished after all"),
}


def test_connections_aborted_amid_requests_lose_no_prediction_of_others(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("clients that vanish")
    service = trial.serve()
    with trial.load(service.port):
        for turn in trial.rounds(10, at_least=2):
            run(vanish_together(service.port, trial.journal, 500 if turn == 0 else 50))
            trial.until_stored(50)
    trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port, *(f"{state} {why}" for state, why in VANISHED.values()))


async def vanish_together(port: int, journal: Journal, number: int) -> None:
    """So many clients at once, each of which hangs up at one of several moments."""
    connections = await together(Connection.open(port) for _ in range(number))
    parts = itertools.cycle(VANISHED)
    await together(vanish(one, journal, next(parts)) for one in connections)


async def vanish(connection: Connection, journal: Journal, part: str) -> None:
    """Send a part of a request, and hang up. Only what came whole may be stored."""
    request = journal.new_request(random.choice([None, 20]))
    whole = http("POST", request.path, request.headers, request.body)
    headers = len(whole) - len(request.body)
    length = {
        "half the headers": headers // 2,
        "half the body": headers + len(request.body) // 2,
        "all": len(whole),
    }[part]
    attempt = journal.sent(request)
    connection.send(whole[:length])
    await asyncio.sleep(random.uniform(0, 0.01))  # some before, some during the work for it
    connection.abort()
    state, why = VANISHED[part]
    journal.ended(attempt, Outcome(state, 0, why))


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*coroutines)


@dataclass(frozen=True)
class Slow:
    """How a slow client was got rid of: by which status, and after how long."""

    status: int
    seconds: float


def test_connections_with_slow_heads_or_bodies_are_408_and_others_are_served(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("slow clients")
    allowed = 2
    # A body that goes on, however slowly, ends with its request's time.
    service = trial.serve(header_timeout=allowed, body_timeout=allowed, request_timeout=2 * allowed)
    clients = scaled(1000, at_least=100)
    announced = {"Content-Type": "application/json", "Content-Length": "1000"}
    headers = http("POST", "/predict", announced)
    with trial.load(service.port):
        for _ in trial.rounds(1):
            in_headers = [be_slow(service.port, b"", headers) for _ in range(clients // 2)]
            in_body = [be_slow(service.port, headers, b"{" + b" " * 999) for _ in in_headers]
            ends = run(together([*in_headers, *in_body]))
            trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port)
    assert Counter(end.status for end in ends) == {408: clients}
    assert max(end.seconds for end in ends) < 2 * allowed + 20, (
        "long before anything else ends them"
    )


async def be_slow(port: int, at_once: bytes, slowly: bytes) -> Slow:
    """Send a part at once, the rest a byte a second. Raises `LostError` where no answer comes."""
    connection = await Connection.open(port)
    began = time.monotonic()
    answer = asyncio.ensure_future(connection.ask(at_once))
    for byte in slowly:
        done, _ = await asyncio.wait([answer], timeout=1)
        if done:
            break
        connection.send(bytes([byte]))
    took = time.monotonic() - began
    end = await answer
    connection.abort()
    assert end.headers["content-type"] == "application/problem+json"
    return Slow(end.status, took)


def test_body_of_100_mb_sent_repeatedly_is_413_and_takes_no_memory(open_trial: OpenTrial) -> None:
    trial = open_trial("body of 100 MB")
    service = trial.serve()
    worker = service.process.pid
    trial.until_recovered(service.port, since=time.monotonic())
    trial.recoveries.clear()
    before = resident_bytes(worker)
    forget_peak(worker)
    for _ in trial.rounds(3):
        answer = run(pour(service.port, 100 * MEBIBYTE))
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert peak_bytes(worker) - before < 10 * MEBIBYTE
        trial.until_recovered(service.port, since=time.monotonic())
    trial.conclude(service.port)


async def pour(port: int, length: int) -> bytes:
    """Send all of a body in chunks, answered or not; return what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    writer.write(http("POST", "/predict", headers))
    chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
    try:
        async with asyncio.timeout(60):
            for _ in range(math.ceil(length / 65536)):
                writer.write(chunk)
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            return await reader.read(MEBIBYTE)
    finally:
        writer.transport.abort()
