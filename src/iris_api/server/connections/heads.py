"""What is judged of a request's head before the application sees it, and what is changed in it."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from iris_api.errors import MalformedRequest, Misdirected, Problem
from iris_api.settings import Settings

Header = tuple[bytes, bytes]

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""RFC 9112, section 3.2: the name or the address, and the port."""
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+")
_HOSTS_REMEMBERED = 16
_VERSIONS = frozenset({"1.0", "1.1"})
_WISHES = frozenset({b"connection", b"upgrade", b"http2-settings"})


class Heads:
    """Judges heads by their version and their ``Host``.

    Where nobody has said who may ask, everybody on this machine may, a browser's pages included.
    A page of an attacker's, whose name leads to this machine by now, would be of the same origin
    as the service, but for the name: the browser sends it as ``Host``.
    """

    def __init__(self, settings: Settings) -> None:
        self._names = {"localhost", settings.host.lower()} if settings.auth is None else None
        self._fault_of_host = lru_cache(_HOSTS_REMEMBERED)(self._find_fault_of_host)

    def fault_of(self, scope: Mapping[str, Any]) -> Problem | None:
        """Why a request is not begun; None where it may."""
        host = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    return MalformedRequest("There is more than one header Host. Send one.")
                host = value
        version = scope["http_version"]
        if version not in _VERSIONS:
            return MalformedRequest("This is another version of HTTP. Send a request of HTTP/1.1.")
        if host is not None:
            return self._fault_of_host(host)
        if version == "1.0":
            return None  # no browser's, which all send a Host
        return MalformedRequest("There is no header Host, which HTTP/1.1 asks for. Send it.")

    def _find_fault_of_host(self, host: bytes) -> Problem | None:
        match = _HOST.fullmatch(host.strip())
        if match is None:
            return MalformedRequest(
                "The header Host does not hold a name or an address. Send this server's."
            )
        if self._names is None or _is_own(match[1].decode("ascii").lower(), self._names):
            return None
        return Misdirected(
            "Nobody has said who may ask, so this service answers under localhost, a loopback "
            "address and IRIS_HOST alone, and the header Host names another. If that is meant, "
            "set IRIS_AUTH to `keys`, or to `off`."
        )


def size_of(url: bytes, headers: Iterable[Header]) -> int:
    """The bytes of a head, but for its first line's method and version."""
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


def without_origin(target: bytes) -> bytes:
    """The path and query of a target in absolute form; any other target as it is.

    RFC 9112, section 3.2.2. What host it names makes no difference here.
    """
    origin = _ORIGIN.match(target)
    if origin is None:
        return target
    rest = target[origin.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def without_wish(method: bytes, url: bytes, version: str, headers: list[Header]) -> bytes:
    """The head, less its wish for another protocol."""
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    lines = [
        b"%s %s HTTP/%s\r\n" % (method, url, version.encode()),
        *(b"%s: %s\r\n" % header for header in headers if header[0] not in _WISHES),
        b"connection: close\r\n" if closes else b"",
        b"\r\n",
    ]
    return b"".join(lines)


def _is_own(name: str, names: set[str]) -> bool:
    if name in names:
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
