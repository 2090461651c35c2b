"""uvicorn around the application: the listening socket, the workers, the way to stop."""

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits
from uvicorn.supervisors import Multiprocess

from iris_api.app import create_app
from iris_api.errors import ConfigurationError
from iris_api.observability.logging import configure_logging
from iris_api.observability.metrics import MULTIPROCESS_VARIABLE
from iris_api.settings import Settings, load_settings

_BACKLOG = 2048


def application() -> FastAPI:
    """Build a worker's application from the environment."""
    settings = load_settings()
    configure_logging(settings)
    # A row is too small a task to share: more BLAS and OpenMP threads only wait for each other.
    threadpool_limits(limits=1)
    return create_app(settings)


def listen(settings: Settings) -> socket.socket:
    """Take the port. Raises `ConfigurationError` where it cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"{settings.host} port {settings.port} cannot be had: {error.strerror}. Stop what "
            "listens there, or set IRIS_HOST and IRIS_PORT."
        ) from None


def run(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then finish what was accepted, within the grace period.

    The settings reach the workers through the environment; ``database_url`` is set by now.
    """
    assert settings.database_url is not None, "the caller has found a database"  # noqa: S101
    os.environ["IRIS_DATABASE_URL"] = settings.database_url.get_secret_value()
    config = uvicorn.Config(
        "iris_api.server:application",
        factory=True,
        workers=settings.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing in an answer depends on the client's address or scheme
        backlog=_BACKLOG,
        timeout_keep_alive=settings.keep_alive_timeout,
        timeout_graceful_shutdown=settings.shutdown_timeout,
    )
    if settings.workers == 1:
        uvicorn.Server(config).run(sockets=[listener])
    else:
        _share_metrics(settings)
        Multiprocess(config, sockets=[listener]).run()


def _share_metrics(settings: Settings) -> None:
    """Give the workers an empty folder to share their metrics in."""
    folder = settings.data_dir.resolve() / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[MULTIPROCESS_VARIABLE] = str(folder)


def call_when_answering(
    listener: socket.socket, callback: Callable[[bool, dict[str, Any]], None]
) -> None:
    """Call back, once and from a thread, with the verdict and the body of ``/readyz``."""
    host, port = listener.getsockname()[:2]
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, no binding here

    def wait() -> None:
        while True:
            connection = HTTPConnection(address, port, timeout=60)
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                callback(response.status == 200, json.load(response))  # noqa: PLR2004, HTTP's OK
                return
            except (OSError, HTTPException, ValueError):
                time.sleep(0.1)
            finally:
                connection.close()

    threading.Thread(target=wait, name="wait-until-ready", daemon=True).start()
