"""uvicorn around the application: the listening socket, its workers, what is said at the start."""

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from iris_api import signals
from iris_api.observability.metrics import warn_of_unshared_metrics
from iris_api.observability.shared_files import FOLDER_VARIABLE
from iris_api.server.connections import BoundedProtocol
from iris_api.server.listener import BACKLOG, SECONDS_TO_CONNECT, turn_away
from iris_api.server.supervisor import (
    Supervisor,
)
from iris_api.settings import Settings

OnReady: TypeAlias = Callable[[str, int, dict[str, Any]], None]
"""Takes the service's URL, and the status and the body of ``/readyz``."""
_OTHER_FILES = 256  # those that are not clients' connections


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted, within the grace period.

    The settings reach the workers through the environment; ``database_url`` is set by now.
    """
    assert settings.database_url is not None, "the caller has found a database"  # noqa: S101
    _allow_open_files(settings.max_connections + _OTHER_FILES)
    os.environ["IRIS_DATABASE_URL"] = settings.database_url.get_secret_value()
    config = uvicorn.Config(
        "iris_api.server.worker:application",
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
        with signals.defer_signals(lambda: server.handle_exit(signal.SIGTERM, None)):
            server.run(sockets=[listener])
    else:
        with _metrics_folder():
            supervisor = Supervisor(config, [listener], settings.shutdown_delay)
            with signals.defer_signals(supervisor.handle_term):
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


def when_ready(listener: socket.socket, report: OnReady) -> None:
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
                report(url, response.status, json.load(response))
            except (OSError, HTTPException, ValueError):  # no answer, or none of the service's
                time.sleep(0.1)
            else:
                return
            finally:
                connection.close()

    threading.Thread(target=wait, name="when-ready", daemon=True).start()
