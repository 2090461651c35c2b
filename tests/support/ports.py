"""Ports for the servers that tests start."""

import socket

_kept: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback address, which the system gives to nobody else from now on.

    It stays bound here until this process ends, by a socket that does not listen; whoever names the
    port, and has SO_REUSEADDR as servers do, gets it all the same.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    _kept.append(keeper)
    port: int = keeper.getsockname()[1]
    return port
