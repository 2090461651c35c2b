"""``make bench-pieces``: where a prediction's time goes, each part alone, in one process.

The figures are CPU times, the least of all rounds, because other work on the machine only adds to
them. There are no sockets between client and service, so these figures show differences between
two versions of the code that the noise hides in whole services.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from benchmarks.apps import empty
from benchmarks.load import BODY, ROW
from benchmarks.processes import HOST, SERVER_CORE, pin
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import workbench
from iris_api.callers import ANONYMOUS_CALLER
from iris_api.database.prediction_id import first_id_at
from iris_api.inference import InferenceEngine
from iris_api.iris import ClassPrediction, Row
from iris_api.recording.recorder import Recorder
from iris_api.recording.rows import NewPrediction, StoredPrediction
from iris_api.resources import ModelHolder, Resources
from iris_api.server.connections import HttpProtocol
from iris_api.server.worker import application

CALLERS = 64
CALLS = 60  # of each caller, in a round
ROUNDS = 25


def main() -> None:
    """Measure, and print the table."""
    print_machine()
    with workbench() as bench:
        api_key = bench.api_key()
        os.environ |= bench.environment("linear")
        pin(os.getpid(), SERVER_CORE)
        with bench.log("pieces").open("w", buffering=1) as sys.stderr:  # the service's log
            microseconds = uvloop.run(measure(api_key))
        sys.stderr = sys.__stderr__
    print_table(
        f"The processor's time for one request of {CALLERS} at once, the least of {ROUNDS} rounds",
        ["", "us"],
        [[name, f"{value:.1f}"] for name, value in microseconds.items()],
    )


async def measure(api_key: str) -> dict[str, float]:
    """The parts; the empty endpoint first, because the service tunes the garbage collector."""
    found = {"an empty endpoint, with its HTTP": await of_requests(empty(), HttpToolsProtocol, {})}
    async with service("off") as (app, state):
        resources: Resources = app.state.resources
        engine, recorder = resources.model.get().engine, resources.recorder
        row: Row = tuple(ROW.values())
        answer = await engine.predict(row)
        new = NewPrediction(ANONYMOUS_CALLER, row, answer)

        async def predict_and_record() -> None:
            await engine.predict(row)
            await recorder.record(new)

        found["inference"] = await of_calls(lambda: engine.predict(row))
        found["group commit"] = await of_calls(lambda: recorder.record(new))
        found["inference, then group commit"] = await of_calls(predict_and_record)
        app.state.resources = answering_at_once(resources, answer)
        found["/predict less these, with its HTTP"] = await of_requests(app, HttpProtocol, state)
    async with service("keys") as (app, state):
        app.state.resources = answering_at_once(app.state.resources, answer)
        found["... and with an API key"] = await of_requests(app, HttpProtocol, state, api_key)
    return found


@asynccontextmanager
async def service(auth: str) -> AsyncIterator[tuple[FastAPI, Any]]:
    """The service's application and its lifespan state."""
    os.environ["IRIS_AUTH"] = auth
    app = application()
    async with app.router.lifespan_context(app) as state:
        yield app, state


def answering_at_once(resources: Resources, answer: ClassPrediction) -> Resources:
    """The resources without inference and SQL."""
    stored = StoredPrediction(first_id_at(datetime.now(UTC)), datetime.now(UTC))

    class Engine:
        async def predict(self, row: Row) -> ClassPrediction:
            return answer

    class Storage:
        async def record(self, prediction: NewPrediction) -> StoredPrediction:
            return stored

    model = replace(resources.model.get(), engine=cast(InferenceEngine, Engine()))
    return replace(
        resources, model=ModelHolder(model, resources.metrics), recorder=cast(Recorder, Storage())
    )


async def of_calls(call: Callable[[], Awaitable[object]]) -> float:
    """The microseconds of one call, while all callers call at once."""

    async def caller() -> None:
        for _ in range(CALLS):
            await call()

    return await _least(lambda: [caller() for _ in range(CALLERS)])


async def of_requests(
    app: FastAPI,
    protocol: type[HttpToolsProtocol],
    lifespan_state: dict[str, Any],
    api_key: str | None = None,
) -> float:
    """The microseconds of one request, from its bytes to the response's."""
    config = uvicorn.Config(app, ws="none", proxy_headers=False, access_log=False, log_config=None)
    config.load()
    loop = asyncio.get_running_loop()
    headers = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    request = (
        f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n{headers}"
        f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
    ).encode()
    server = ServerState()
    server.default_headers = [(b"date", b"Mon, 23 Nov 2026 00:00:00 GMT")]
    clients = [
        _Client(protocol(config, server, lifespan_state, loop), request) for _ in range(CALLERS)
    ]
    return await _least(lambda: [client.send(CALLS) for client in clients])


async def _least(start: Callable[[], list[Awaitable[None]]]) -> float:
    spent = []
    for _ in range(ROUNDS):
        began = time.process_time()
        await asyncio.gather(*start())
        spent.append(time.process_time() - began)
    return min(spent) / CALLERS / CALLS * 1e6


class _Client(asyncio.Transport):
    """A connection in memory; its client sends the next request when it has the response."""

    def __init__(self, protocol: HttpToolsProtocol, request: bytes) -> None:
        super().__init__()
        self._protocol = protocol
        self._request = request
        self._left = 0
        self._loop = asyncio.get_running_loop()
        protocol.connection_made(self)

    async def send(self, count: int) -> None:
        """Send the request ``count`` times; return when all have responses."""
        self._left = count
        self._all_answered = self._loop.create_future()
        self._protocol.data_received(self._request)
        await self._all_answered

    def write(self, data: Any) -> None:
        if data.startswith(b"HTTP/1.1"):
            assert data.startswith(b"HTTP/1.1 200"), data
        if not data.endswith(b"}"):
            return  # the body follows
        self._left -= 1
        if self._left:
            self._loop.call_soon(self._protocol.data_received, self._request)
        else:
            self._all_answered.set_result(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": (HOST, 80), "peername": (HOST, 1024)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


if __name__ == "__main__":
    main()
