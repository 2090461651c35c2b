"""One worker: its application, its lifespan and its graceful shutdown."""

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.types import Lifespan
from threadpoolctl import threadpool_limits

from iris_api import signals
from iris_api.app import create_app
from iris_api.background import background_tasks
from iris_api.observability.logging import configure_logging
from iris_api.observability.metrics import share_metrics
from iris_api.observability.shared_files import remove_folder
from iris_api.observability.standard_error import drain
from iris_api.server.connections import STATE, Connections
from iris_api.settings import Settings, load_settings

_OBJECTS_BETWEEN_COLLECTIONS = 50_000
_DEBOUNCE_SECONDS = 1.0
"""How long after a signal to the process group the supervisor may pass the same signal on."""
log = structlog.get_logger("iris_api")


def application() -> FastAPI:
    """Build a worker's application from the environment."""
    settings = load_settings()
    configure_logging(settings)
    # A row is too small a task for several BLAS or OpenMP threads: they only wait for each other.
    threadpool_limits(limits=1)
    share_metrics()
    app = create_app(settings)
    app.router.lifespan_context = with_server_lifespan(app.router.lifespan_context, settings)
    return app


def with_server_lifespan(lifespan: Lifespan[Any], settings: Settings) -> Lifespan[Any]:
    """Extend an application's lifespan for a process that `iris_api.server.run` serves.

    Its own lifespan has to set ``app.state.resources``.
    """

    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[dict[str, Connections]]:
        async with lifespan(app):
            connections = Connections(settings, app.state.resources.metrics)
            async with background_tasks(connections.watch):
                if settings.workers == 1:
                    _install_graceful_shutdown(app, settings.shutdown_delay)
                else:
                    _install_graceful_shutdown(
                        app, settings.shutdown_delay, debounce_seconds=_DEBOUNCE_SECONDS
                    )
                    _end_with_parent()
                    log.info("worker_ready", pid=os.getpid())
                _tune_gc()
                yield {STATE: connections}
        if settings.workers > 1:
            drain()  # uvicorn raises the signal again, which ends a worker at once

    return wrapped


def _end_with_parent() -> None:
    """Stop this worker when its supervisor is gone, for example killed.

    It stops without delay, because another supervisor may be waiting for the port.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"  # noqa: S101

    def wait() -> None:
        parent.join()
        log.warning("worker_orphaned")
        remove_folder()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def _tune_gc() -> None:
    """Exclude the objects of the startup from garbage collection, and collect less often.

    The libraries create 190,000 objects that live as long as the process; a full collection that
    visits them stops every request for 95 ms. When many requests begin together, their objects
    exceed the threshold of 700 at once: at 64 connections, 6 % of the processor's time went into
    collections that freed little.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])


def _install_graceful_shutdown(app: FastAPI, delay: float, debounce_seconds: float = 0) -> None:
    """At SIGTERM or SIGHUP, turn not ready, and serve for ``delay`` more seconds before the stop.

    In that time, a load balancer notices, and responses have ``Connection: close``, so that clients
    send their next request elsewhere. A second SIGTERM, or SIGINT, stops at once.

    SIGTERM is ignored for ``debounce_seconds`` after the first: a signal to the process group
    arrives twice, directly and from the supervisor.
    """
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)  # uvicorn's, which restores the earlier one at its end
    if not callable(stop):
        return

    def begin() -> None:
        app.state.resources.is_stopping = True
        if debounce_seconds:
            loop.call_later(debounce_seconds, signal.signal, signal.SIGTERM, stop)
        loop.call_later(delay, stop, signal.SIGTERM, None)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        signals.note(number)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if debounce_seconds else stop)
        loop.call_soon_threadsafe(begin)

    def on_sighup(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    if delay:
        signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, on_sighup)
