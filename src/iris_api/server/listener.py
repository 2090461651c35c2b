"""The listening socket."""

import errno
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

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


def bind(settings: Settings) -> socket.socket:
    """Reserve the port. Clients cannot connect before `listen`.

    Raises `ConfigurationError` if that is impossible, or if ``IRIS_AUTH`` is not set and other
    machines could reach the address.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):  # the latter: it cannot be a host name
        raise _error(settings, f"there is no such host. {_OTHER_HOST}") from None
    if settings.auth is None and not ip_address(address[0]).is_loopback:
        raise ConfigurationError(
            f"{settings.host} is reachable from elsewhere, and IRIS_AUTH is not set. Set it to "
            "`keys` and make one with `iris-api keys create`, or to `off` if everybody who "
            "reaches this address may predict and read."
        )
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _retry_in_use(lambda: listener.bind(address[:2]))
    except OSError as error:
        listener.close()
        raise _error(settings, _reason_and_advice(error)) from None
    return listener


def listen(listener: socket.socket, settings: Settings) -> None:
    """Let clients connect. Raises `ConfigurationError` if another process did so meanwhile."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _error(settings, _reason_and_advice(error)) from None


def _retry_in_use(take: Callable[[], None]) -> None:
    for _ in range(_RETRIES):
        try:
            return take()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        time.sleep(_RETRY_SECONDS)
    return take()


def _error(settings: Settings, reason: str) -> ConfigurationError:
    return ConfigurationError(f"Cannot listen on {settings.host} port {settings.port}: {reason}")


def _reason_and_advice(error: OSError) -> str:
    number = error.errno or 0
    return f"{os.strerror(number)}. {_ADVICE.get(number, _OTHER_HOST)}"
