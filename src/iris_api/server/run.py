"""Runs the application by uvicorn, in this process or in several workers."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from iris_api import signals
from iris_api.observability.metrics import warn_of_unshared_metrics
from iris_api.observability.shared_files import FOLDER_VARIABLE
from iris_api.server.connections import HttpProtocol
from iris_api.server.listener import BACKLOG
from iris_api.server.supervisor import Supervisor
from iris_api.settings import Settings

_ACCEPT_SECONDS = 0.1
_OTHER_FILES = 256  # files other than client connections


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then finish accepted requests within the grace period.

    Workers read the settings from the environment. ``settings.database_url`` must be set.
    """
    assert settings.database_url is not None, "the caller has found a database"  # noqa: S101
    _allow_open_files(settings.max_connections + _OTHER_FILES)
    os.environ["IRIS_DATABASE_URL"] = settings.database_url.get_secret_value()
    config = configure(settings)
    if settings.workers == 1:
        server = _Server(config)
        with signals.defer_signals(lambda: server.handle_exit(signal.SIGTERM, None)):
            server.run(sockets=[listener])
    else:
        with _metrics_folder():
            supervisor = Supervisor(config, [listener], settings.shutdown_delay)
            with signals.defer_signals(supervisor.handle_term):
                supervisor.run()
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            sys.exit(STARTUP_FAILURE)


class _Server(uvicorn.Server):
    """uvicorn's server, which reports at once that it stops, and resets few new connections."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept what has connected, while the kernel queues hardly any more; then stop."""
        for listener in sockets or []:
            listener.listen(0)
        await asyncio.sleep(_ACCEPT_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Report the signal, and stop."""
        signals.note(sig)
        super().handle_exit(sig, frame)


def configure(
    settings: Settings, factory: str = "iris_api.server.worker:application"
) -> uvicorn.Config:
    """Uvicorn's configuration; ``factory`` builds the application in each worker."""
    return uvicorn.Config(
        factory,
        factory=True,
        workers=settings.workers,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],  # browsers must not guess types
        proxy_headers=False,  # no response depends on the client's address or scheme
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """Make the folder where the workers share their metrics; if that fails, log a warning."""
    try:
        folder = TemporaryDirectory(prefix="iris-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        warn_of_unshared_metrics("no folder for temporary files", error)
        os.environ.pop(FOLDER_VARIABLE, None)  # an inherited one is not for these workers
        yield
        return
    with folder as path:
        os.environ[FOLDER_VARIABLE] = path
        yield


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files as far as allowed: without files, uvicorn accepts no client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
