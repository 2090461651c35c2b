"""One process that serves: its application, its lifespan, its way to stop."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI
from starlette.types import Lifespan
from threadpoolctl import threadpool_limits

from iris_api.app import create_app
from iris_api.background import background_tasks
from iris_api.observability.logging import configure_logging
from iris_api.observability.metrics import share_metrics
from iris_api.observability.standard_error import drain
from iris_api.server.connections import Connections
from iris_api.server.supervisor import (
    SECONDS_TO_LEAVE,
    SECONDS_UNTIL_NOTED,
    end_with_parent,
)
from iris_api.settings import Settings, load_settings

_OBJECTS_BETWEEN_COLLECTIONS = 50_000


def application() -> FastAPI:
    """Build a worker's application from the environment."""
    settings = load_settings()
    configure_logging(settings)
    # A row is too small a task to share: more BLAS and OpenMP threads only wait for each other.
    threadpool_limits(limits=1)
    share_metrics()
    app = create_app(settings)
    app.router.lifespan_context = _with_server_lifespan(app.router.lifespan_context, settings)
    return app


def _with_server_lifespan(lifespan: Lifespan[Any], settings: Settings) -> Lifespan[Any]:
    """The application's lifespan, in a process of its own that serves it by uvicorn."""

    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state, _connections(app, settings):
            if settings.workers == 1:
                _install_graceful_shutdown(app, settings.shutdown_delay)
            else:
                _install_graceful_shutdown(
                    app, settings.shutdown_delay + SECONDS_TO_LEAVE, deaf=2 * SECONDS_UNTIL_NOTED
                )
                end_with_parent()
            _tune_gc()
            yield state
        if settings.workers > 1:
            drain()  # the signal that uvicorn raises again ends a worker at once

    return wrapped


@asynccontextmanager
async def _connections(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """The clients' connections, where `BoundedProtocol` looks for them."""
    app.state.connections = Connections(settings, app.state.resources.metrics)
    async with background_tasks(app.state.connections.watch):
        yield


def _tune_gc() -> None:
    """Take what the start has made out of the collector's sight, and have it look less often.

    The libraries bring 190,000 objects that live as long as the process; to look through them all,
    as a full collection does, stops every request for 95 ms. And wherever many requests begin
    together, the objects that they hold are over the threshold of 700 at once: at 64 connections,
    6 % of the processor's time went into collections that had little to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])


def _install_graceful_shutdown(app: FastAPI, delay: float, deaf: float = 0) -> None:
    """At SIGTERM or SIGHUP, be not ready first, and serve on for ``delay`` s before uvicorn stops.

    So a load balancer has the time to notice, and the clients to take their next request, over
    another connection, elsewhere. A second signal, or SIGINT, stops at once.

    For ``deaf`` seconds another SIGTERM is taken for the same: where a worker was told along with
    its parent, that passes it on. A second one the parent says again and again.
    """
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)  # uvicorn's; it puts back what it found, at its end
    if not callable(stop):
        return

    def begin() -> None:
        app.state.resources.is_stopping = True
        app.state.connections.close_after_answers()
        if deaf:
            loop.call_later(deaf, signal.signal, signal.SIGTERM, stop)
        loop.call_later(delay, stop, signal.SIGTERM, None)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else stop)
        loop.call_soon_threadsafe(begin)

    def on_sighup(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    if delay:
        signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, on_sighup)
