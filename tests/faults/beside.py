"""What goes on beside the predictions: who watches, who reads, what stands before PostgreSQL."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal
from tests.faults.load import Behaviour
from tests.faults.postgres import Postgres
from tests.support.proxy import Proxy
from tests.support.service_processes import is_not_ready
from tests.support.wire import Connection, get, http

_ALIVE_SECONDS = 5
_READY_SECONDS = 5


@contextmanager
def proxy_before(postgres: Postgres) -> Iterator[Proxy]:
    """A proxy in an event loop of its own, in a thread."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Proxy.before(postgres.url())) as proxy,
    ):
        yield proxy


def staying_alive(port: int) -> Behaviour:
    """Ask ``/livez`` all the while."""

    async def behave(stopping: threading.Event) -> None:
        while not stopping.is_set():
            connection = await Connection.open(port)
            answer = await connection.ask(http("GET", "/livez"), _ALIVE_SECONDS)
            connection.abort()
            assert answer.status == 200
            await asyncio.sleep(0.1)

    return behave


def reading(port: int) -> Behaviour:
    """Read the history, page after page, over one connection after the other."""

    async def behave(stopping: threading.Event) -> None:
        while not stopping.is_set():
            connection = await Connection.open(port)
            answer = await connection.ask(http("GET", "/predictions?limit=100"))
            connection.abort()
            assert answer.status in {200, 503}, answer
            assert answer.status == 200 or "retry-after" in answer.headers

    return behave


def outlast(port: int, duration: float, *words: str) -> None:
    """Have ``/readyz`` say for so long that the service is not ready, and why."""
    end = time.monotonic() + duration
    while time.monotonic() < end:
        asked = time.monotonic()
        answer = get(port, "/readyz")
        assert time.monotonic() - asked < _READY_SECONDS
        assert is_not_ready(answer, *words), (answer.status, answer.body)
