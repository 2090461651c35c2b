"""Clients over raw sockets: fast enough to be many, and exact about what they know."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from tests.faults.journal import Journal, Outcome, Request

T = TypeVar("T")

PATIENCE = 30.0  # seconds without an answer, after which its outcome is unknown
_UNKNOWN = "urn:iris-api:problem:outcome-unknown"
_CONNECT_PATIENCE = 10.0
_AT_ONCE = 16
NO_RETRY_AFTER = "without Retry-After"


class RefusedError(Exception):
    """No connection could be had, so nothing was sent."""


class LostError(Exception):
    """The connection ended after the request went out, or nothing came for too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One kept-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        """Raises `RefusedError`."""
        try:
            async with asyncio.timeout(_CONNECT_PATIENCE):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        except (OSError, TimeoutError) as error:
            raise RefusedError(type(error).__name__) from error
        return connection

    async def ask(self, request: bytes, patience: float = PATIENCE) -> Answer:
        """Send the request and return its answer. Raises `LostError`."""
        assert self._transport is not None, "open() has connected"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(patience):
                return await self._answer
        except TimeoutError:
            self.abort()
            raise LostError("no answer") from None
        finally:
            self._answer = None

    def send(self, data: bytes) -> None:
        """Send more of a request."""
        assert self._transport is not None, "open() has connected"
        if not self.closed:
            self._transport.write(data)

    def abort(self) -> None:
        """Close without a word; what was not sent yet never is."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", 0))
        if len(rest) >= length and self._answer is not None and not self._answer.done():
            self._received.clear()
            if headers.get("connection", "").lower() == "close":
                self.closed = True
            self._answer.set_result(Answer(int(lines[0].split()[1]), headers, rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(LostError("connection lost"))


def http(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request's bytes."""
    announced = {"Host": "iris", **(headers or {})}
    if body:
        announced["Content-Length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {announced[name]}" for name in announced)]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """Asks over one connection after the other, and journals each outcome.

    It sends nothing twice: a kept-alive connection that ends under a request leaves it unknown.
    """

    def __init__(self, port: int, journal: Journal, *, patience: float = PATIENCE) -> None:
        self.port = port
        self.journal = journal
        self.patience = patience
        self._connection: Connection | None = None

    async def ask(self, request: Request) -> Outcome:
        self.journal.sent(request)
        outcome, _ = await self.exchange(request)
        self.journal.ended(request, outcome)
        return outcome

    async def exchange(self, request: Request) -> tuple[Outcome, Answer | None]:
        """Ask, and do not journal."""
        began = time.monotonic()
        try:
            answer = await self._answer(http("POST", request.path, request.headers, request.body))
        except RefusedError:
            return Outcome("fail", time.monotonic() - began, "refused"), None
        except LostError as error:
            return Outcome("unknown", time.monotonic() - began, str(error)), None
        return outcome_of(answer, time.monotonic() - began), answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _answer(self, request: bytes) -> Answer:
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = await Connection.open(self.port)
        return await self._connection.ask(request, self.patience)


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

    def request(self, journal: Journal, turn: int) -> Request:
        is_batch = turn % self.batch_every == self.batch_every - 1
        keyed = turn % self.key_every == 0
        return journal.new_request(self.batch_rows if is_batch else None, keyed=keyed)


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


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a loop of its own."""
    with asyncio.Runner() as runner:
        return runner.run(coroutine)


def ask_once(
    port: int, journal: Journal, request: Request | None = None, *, patience: float = PATIENCE
) -> Outcome:
    """Ask over a connection of its own, from a test that is no coroutine."""

    async def once() -> Outcome:
        client = Client(port, journal, patience=patience)
        outcome = await client.ask(request or journal.new_request())
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


def get(port: int, path: str, *, patience: float = PATIENCE) -> Answer:
    """GET over a connection of its own. Raises `RefusedError` or `LostError`."""

    async def once() -> Answer:
        connection = await Connection.open(port)
        try:
            return await connection.ask(http("GET", path), patience)
        finally:
            connection.abort()

    return run(once())
