"""uvicorn around the application: the listening socket, the workers, the way to stop."""

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI
from starlette.types import Lifespan
from threadpoolctl import threadpool_limits
from uvicorn.config import STARTUP_FAILURE

from iris_api import signals
from iris_api.app import create_app
from iris_api.connections import BoundedProtocol, Connections
from iris_api.listener import BACKLOG, SECONDS_TO_CONNECT, turn_away
from iris_api.observability.logging import configure_logging
from iris_api.observability.metrics import share_metrics, warn_of_unshared_metrics
from iris_api.observability.shared_files import FOLDER_VARIABLE
from iris_api.observability.standard_error import drain
from iris_api.settings import Settings, load_settings
from iris_api.supervisor import SECONDS_TO_LEAVE, SECONDS_UNTIL_NOTED, Supervisor, end_with_parent
from iris_api.tasks import in_background

_OTHER_FILES = 256  # those that are not clients' connections
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


class Greeting(Protocol):
    """What to do with the first answer of ``/readyz``."""

    def __call__(self, url: str, *, ready: bool, body: dict[str, Any]) -> None:
        """Take the service's URL, and the verdict and the body of ``/readyz``."""


def application() -> FastAPI:
    """Build a worker's application from the environment."""
    settings = load_settings()
    configure_logging(settings)
    # A row is too small a task to share: more BLAS and OpenMP threads only wait for each other.
    threadpool_limits(limits=1)
    share_metrics()
    app = create_app(settings)
    app.state.connections = Connections(settings, app.state.metrics)
    app.router.lifespan_context = _as_server(app.router.lifespan_context, settings)
    return app


def _as_server(lifespan: Lifespan[Any], settings: Settings) -> Lifespan[Any]:
    """The application's lifespan, in a process of its own that serves it by uvicorn."""

    @asynccontextmanager
    async def wrapped(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state, in_background(app.state.connections.watch):
            if settings.workers == 1:
                _stop_by_degrees(app, settings.shutdown_delay)
            else:
                _stop_by_degrees(
                    app, settings.shutdown_delay + SECONDS_TO_LEAVE, deaf=2 * SECONDS_UNTIL_NOTED
                )
                end_with_parent()
            _calm_garbage_collector()
            yield state
        if settings.workers > 1:
            drain()  # the signal that uvicorn raises again ends a worker at once

    return wrapped


def _calm_garbage_collector() -> None:
    """Take what the start has made out of the collector's sight, and have it look less often.

    The libraries bring 190,000 objects that live as long as the process; to look through them all,
    as a full collection does, stops every request for 95 ms. And wherever many requests begin
    together, the objects that they hold are over the threshold of 700 at once: at 64 connections,
    6 % of the processor's time went into collections that had little to find.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])


def _stop_by_degrees(app: FastAPI, delay: float, deaf: float = 0) -> None:
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
        app.state.is_stopping = True
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


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted, within the grace period.

    The settings reach the workers through the environment; ``database_url`` is set by now.
    """
    assert settings.database_url is not None, "the caller has found a database"  # noqa: S101
    _allow_open_files(settings.max_connections + _OTHER_FILES)
    os.environ["IRIS_DATABASE_URL"] = settings.database_url.get_secret_value()
    config = uvicorn.Config(
        "iris_api.server:application",
        factory=True,
        workers=settings.workers,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],  # an answer is what its type says
        # Nothing in an answer depends on the client's address or scheme, and `BoundedProtocol`
        # takes `Config.loaded_app` for the application itself: uvicorn's middleware would hide it.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    if settings.workers == 1:
        server = _Server(config)
        with signals.held(lambda: server.handle_exit(signal.SIGTERM, None)):
            server.run(sockets=[listener])
    else:
        with _metrics_folder():
            supervisor = Supervisor(config, [listener], settings.shutdown_delay)
            with signals.held(supervisor.handle_term):
                supervisor.run()
        if supervisor.has_failed:
            sys.exit(STARTUP_FAILURE)


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """A folder where the workers share their metrics, or else a warning that they do not."""
    try:
        folder = TemporaryDirectory(prefix="iris-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        warn_of_unshared_metrics("no folder for temporary files", error)
        os.environ.pop(FOLDER_VARIABLE, None)  # somebody else's, which is not the workers'
        yield
        return
    with folder as path:
        os.environ[FOLDER_VARIABLE] = path
        yield


class _Server(uvicorn.Server):
    """uvicorn's server, but it serves as well who has connected and was not accepted yet."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept all who have begun to connect, then stop."""
        for listener in sockets or []:
            turn_away(listener)
        await asyncio.sleep(SECONDS_TO_CONNECT)
        await super().shutdown(sockets)


def _allow_open_files(count: int) -> None:
    """Raise the limit of this process as far as it may: without files, uvicorn accepts nobody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def call_when_answering(listener: socket.socket, greet: Greeting) -> None:
    """Ask ``/readyz`` until it answers, in a thread, and hand on what it said, once."""
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, no binding

    def wait() -> None:
        while True:
            connection = HTTPConnection(reachable, port, timeout=60)
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                greet(url, ready=response.status == HTTPStatus.OK, body=json.load(response))
            except (OSError, HTTPException, ValueError):  # no answer, or none of the service's
                time.sleep(0.1)
            else:
                return
            finally:
                connection.close()

    threading.Thread(target=wait, name="greeting", daemon=True).start()
