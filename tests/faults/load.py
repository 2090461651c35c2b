"""Clients who ask, one or many, and journal what they are told."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from tests.faults.asking import ANONYMOUS_CALLER, Caller, Outcome, Request
from tests.faults.journal import Journal
from tests.support.answers import Answer
from tests.support.wire import PATIENCE, Connection, LostError, RefusedError, http, run

_UNKNOWN = "urn:iris-api:problem:outcome-unknown"
_AT_ONCE = 16
NO_RETRY_AFTER = "without Retry-After"


class Client:
    """Asks over one connection after the other, and journals each outcome.

    It sends nothing twice: a kept-alive connection that ends under a request leaves it unknown.
    """

    def __init__(self, port: int, journal: Journal, *, patience: float = PATIENCE) -> None:
        self.port = port
        self.journal = journal
        self.patience = patience
        self._connection: Connection | None = None

    async def connect(self) -> None:
        """Open a connection now, for the next request. Raises `RefusedError`."""
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = await Connection.open(self.port)

    async def ask(self, request: Request) -> Outcome:
        outcome, _ = await self._exchange(request)
        return outcome

    async def ask_and_look(self, request: Request) -> Answer:
        """Ask where an answer is sure to come, and return it itself."""
        outcome, answer = await self._exchange(request)
        assert answer is not None, outcome
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _exchange(self, request: Request) -> tuple[Outcome, Answer | None]:
        attempt = self.journal.sent(request)
        outcome, answer = await self._send(request)
        self.journal.ended(attempt, outcome)
        return outcome, answer

    async def _send(self, request: Request) -> tuple[Outcome, Answer | None]:
        data = http("POST", request.path, request.headers, request.body)
        began = time.monotonic()
        try:
            await self.connect()
            assert self._connection is not None, "connect() has made it"
            answer = await self._connection.ask(data, self.patience)
        except RefusedError:
            return Outcome("fail", time.monotonic() - began, "refused"), None
        except LostError as error:
            return Outcome("unknown", time.monotonic() - began, str(error)), None
        return outcome_of(answer, time.monotonic() - began), answer


def outcome_of(answer: Answer, seconds: float) -> Outcome:
    """What an answer tells about the rows that were asked for."""
    if 200 <= answer.status < 300:
        body = answer.json()
        items = body.get("items", [body])
        rows = [(item["id"], item["prediction_label"]) for item in items]
        return Outcome("ok", seconds, rows=rows)
    if answer.headers.get("content-type") != "application/problem+json":
        return Outcome("unknown", seconds, f"{answer.status}, not a problem of the service's")
    kind = answer.json()["type"]
    why = f"{answer.status} {kind.rpartition(':')[2]}"
    if answer.status in {429, 503} and "retry-after" not in answer.headers:
        why += f" {NO_RETRY_AFTER}"
    return Outcome("unknown" if kind == _UNKNOWN else "fail", seconds, why)


@dataclass(frozen=True)
class Mix:
    """What a client of a storm asks for, turn by turn."""

    key_every: int = 2
    batch_every: int = 39  # odd, so that batches too are with a key and without one by turns
    batch_rows: int = 20
    pause: float = 0.01  # seconds
    pause_after_failure: float = 0.05
    hang_up_every: int = 50  # then by a new connection, perhaps to another worker
    caller: Caller = ANONYMOUS_CALLER

    def request(self, journal: Journal, turn: int) -> Request:
        is_batch = turn % self.batch_every == self.batch_every - 1
        keyed = turn % self.key_every == 0
        count = self.batch_rows if is_batch else None
        return journal.new_request(count, keyed=keyed, caller=self.caller)


Behaviour = Callable[[threading.Event], Awaitable[None]]
"""What one client does until the event is set."""


def asking(port: int, journal: Journal, mix: Mix, *, patience: float = PATIENCE) -> Behaviour:
    """Ask, take the answer, pause, ask again."""

    async def behave(stopping: threading.Event) -> None:
        client = Client(port, journal, patience=patience)
        turn = 0
        while not stopping.is_set():
            outcome = await client.ask(mix.request(journal, turn))
            turn += 1
            if turn % mix.hang_up_every == 0:
                client.close()
            await asyncio.sleep(mix.pause if outcome.state == "ok" else mix.pause_after_failure)
        client.close()

    return behave


class Crowd:
    """Clients in an event loop of their own, in a thread, while the test does its harm.

    At the end of the block each client finishes the request that it has begun.
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self._behaviours = behaviours
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="crowd")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        async def together() -> None:
            await asyncio.gather(*(behave(self._stopping) for behave in self._behaviours))

        try:
            run(together())
        except BaseException as failure:  # noqa: BLE001, raised anew in the test's own thread
            self._failure = failure


def ask_once(port: int, journal: Journal, request: Request) -> Outcome:
    """Ask over a connection of its own, from a test that is no coroutine."""

    async def once() -> Outcome:
        client = Client(port, journal)
        outcome = await client.ask(request)
        client.close()
        return outcome

    return run(once())


def ask_all(port: int, journal: Journal, requests: Iterable[Request]) -> list[Outcome]:
    """Ask for each, some at the same time; the outcomes are in the order of the requests."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(request: Request) -> Outcome:
        async with turn:
            client = Client(port, journal)
            outcome = await client.ask(request)
            client.close()
            return outcome

    async def together() -> list[Outcome]:
        return await asyncio.gather(*map(one, requests))

    return run(together())
