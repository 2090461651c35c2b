"""Checks of a request's head that the parser does not make."""

import re
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from iris_api.errors import MalformedRequest, Misdirected, Problem
from iris_api.web.problems import problem_response

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
"""RFC 9112, section 3.2: the name or the address, and the port."""
_VERSIONS = frozenset({"1.0", "1.1"})
_CACHED_HOSTS = 16
_CLOSE = {"Connection": "close"}
"""Two readings of one head are an attacker's tool, so nothing more is read of this connection."""


class RequestHeadMiddleware:
    """Refuses another HTTP than 1.x, an encoded body, and what has not exactly one valid ``Host``.

    RFC 9112, sections 3.2 and 6.1, asks for it. With ``allowed_names``, it also refuses a ``Host``
    that is neither one of these nor a loopback address. That protects a service without access
    control from a page in a browser on this machine, whose own name may lead to a loopback address
    (DNS rebinding): the browser sends that name as ``Host``.
    """

    def __init__(self, app: ASGIApp, *, allowed_names: frozenset[str] | None) -> None:
        self.app = app
        self.allowed_names = allowed_names
        self._check = lru_cache(_CACHED_HOSTS)(self._check_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with a problem; other scopes pass through."""
        problem = self._problem_of(scope) if scope["type"] == "http" else None
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await problem_response(problem, scope)(scope, receive, send)

    def _problem_of(self, scope: Scope) -> Problem | None:
        host: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    return _malformed("There is more than one header Host. Send one.")
                host = value
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                return _malformed("Transfer-Encoding may be chunked alone. Send the body as it is.")
        version = scope["http_version"]
        if version not in _VERSIONS:
            return _malformed("This is another version of HTTP. Send a request of HTTP/1.1.")
        if host is not None:
            return self._check(host)
        if version == "1.0":
            return None  # not from a browser: all send a Host
        return _malformed("There is no header Host, which HTTP/1.1 asks for. Send it.")

    def _check_host(self, host: bytes) -> Problem | None:
        match = _HOST.fullmatch(host.strip())
        if match is None:
            return _malformed(
                "The header Host does not hold a name or an address. Send this server's."
            )
        names = self.allowed_names
        if names is None or _is_allowed(match[1].decode("ascii").lower(), names):
            return None
        return Misdirected(
            "IRIS_AUTH is not set, so this service answers under localhost, a loopback address and "
            "IRIS_HOST alone, and the header Host names another. If that is meant, set IRIS_AUTH "
            "to `keys`, or to `off`.",
            headers=_CLOSE,
        )


def _malformed(detail: str) -> Problem:
    return MalformedRequest(detail, headers=_CLOSE)


def _is_allowed(name: str, names: frozenset[str]) -> bool:
    if name in names:
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
