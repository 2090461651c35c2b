"""The listening socket: how it is taken, and how it is left without leaving anybody before it."""

import ctypes
import errno
import os
import socket
import struct
import sys
from contextlib import suppress
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
SECONDS_TO_CONNECT = 0.1
"""What a handshake that has begun may take until the socket is closed."""
_SO_ATTACH_FILTER = 26  # of Linux' asm-generic/socket.h; the socket module does not have it
_NO_SYN = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags of a TCP header
    (0x45, 0, 1, 0x02),  # jset #2: one is SYN, else skip one
    (0x06, 0, 0, 0),  # ret #0: drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep all of it
)
"""A program of the classic Berkeley packet filter: code, jumps if true and if false, operand."""


def listen(settings: Settings) -> socket.socket:
    """Take the port.

    Raises `ConfigurationError` where it cannot be had, or where it would be open to anybody who
    reaches this machine without anybody having said so.
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
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
        raise ConfigurationError(
            f"{settings.host} port {settings.port} cannot be had: {_reason_and_advice(error)}"
        ) from None


def _reason_and_advice(error: OSError | UnicodeError) -> str:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return f"there is no such host. {_OTHER_HOST}"
    number = error.errno or 0
    return f"{os.strerror(number)}. {_ADVICE.get(number, _OTHER_HOST)}"


def turn_away(listener: socket.socket) -> None:
    """Take no new connection from now on, but leave those alone that have begun.

    A socket that is closed resets whoever has connected and was not accepted yet, and the request
    that such a client has sent already. After this, a client's first segment is dropped: it sends
    it again after a second, and is refused then, so it can go elsewhere, for it has sent nothing
    else. Without effect on systems other than Linux.

    It is for all processes that share the socket, and for good.
    """
    if sys.platform != "linux":
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _NO_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("HL", len(_NO_SYN), ctypes.addressof(program))
    with suppress(OSError):  # a kernel without filters
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
