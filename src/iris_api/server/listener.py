"""The listening socket."""

import errno
import os
import socket
import time
from ipaddress import ip_address
from typing import Any

from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

BACKLOG = 2048
_OTHER_HOST = "Set IRIS_HOST to an address of this machine."
_ADVICE = {
    errno.EADDRINUSE: "Stop what listens there, or set IRIS_PORT to another port.",
    errno.EACCES: "Set IRIS_PORT to a port from 1024 up.",
}
"""What to do by the error's number; `_OTHER_HOST` for all else."""
_RETRIES = 20
_RETRY_SECONDS = 0.1
"""For 2 s, the workers of a supervisor that was killed may still have the port."""


def listen(settings: Settings) -> socket.socket:
    """Take the port.

    Raises `ConfigurationError` if that is impossible, or if ``IRIS_AUTH`` is not set and other
    machines could reach the address.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if settings.auth is None and not ip_address(address[0]).is_loopback:
            raise ConfigurationError(
                f"{settings.host} is reachable from elsewhere, and IRIS_AUTH is not set. Set it to "
                "`keys` and make one with `iris-api keys create`, or to `off` if everybody who "
                "reaches this address may predict and read."
            )
        return _create_server(family, address[:2])
    except (OSError, UnicodeError) as error:  # the latter: it cannot be a host name
        raise ConfigurationError(
            f"Cannot listen on {settings.host} port {settings.port}: {_reason_and_advice(error)}"
        ) from None


def _create_server(family: int, address: tuple[Any, ...]) -> socket.socket:
    for _ in range(_RETRIES):
        try:
            return socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        time.sleep(_RETRY_SECONDS)
    return socket.create_server(address, family=family, backlog=BACKLOG)


def _reason_and_advice(error: OSError | UnicodeError) -> str:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"there is no such host. {_OTHER_HOST}"
    number = error.errno or 0
    return f"{os.strerror(number)}. {_ADVICE.get(number, _OTHER_HOST)}"
