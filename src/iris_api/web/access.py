"""Access control: API keys, their scopes, and a rate limit per client."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iris_api.auth.rate_limit import RateLimiter
from iris_api.callers import ANONYMOUS_CALLER, Caller
from iris_api.callers import Scope as KeyScope
from iris_api.errors import (
    DatabaseUnavailable,
    DatabaseUnsafe,
    Forbidden,
    Overloaded,
    Problem,
    RateLimited,
    SchemaOutdated,
    Unauthorized,
)
from iris_api.observability.access_log import log_fields
from iris_api.resources import Resources
from iris_api.web.limits import NEVER_REFUSED
from iris_api.web.paths import path_of
from iris_api.web.problems import problem_response

_OPEN_PATHS = frozenset({"", "/", "/livez", "/readyz", "/openapi.json", "/docs"})
"""Paths that need no API key: probes and documentation. The root is empty if a request for the root
path has no slash at the end."""
_CALLER = "iris_api.caller"
_HOW = "Send the header `Authorization: Bearer iris_...`; `iris-api keys create` makes a key."

KEY_PROBLEMS = (
    Unauthorized,
    Forbidden,
    Overloaded,
    DatabaseUnavailable,
    DatabaseUnsafe,
    SchemaOutdated,
)
"""The problems of an operation that needs an API key."""
ACCESS_PROBLEMS = (*KEY_PROBLEMS, RateLimited)
"""The same, for an operation that is not in `NEVER_REFUSED`."""
SECURED: dict[str, Any] = {"security": [{"bearer": []}]}
"""For an operation's OpenAPI document: it needs an API key if the deployment requires them."""
OPEN: dict[str, Any] = {"security": []}
"""The same, for an operation that never needs one."""


class AccessMiddleware:
    """Authenticates the caller, and counts the request against the client's rate limit.

    Installed only if API keys are required or a limit is set, so open access costs nothing. Without
    it, `may` returns `ANONYMOUS_CALLER`, or raises `Unauthorized` if ``IRIS_AUTH`` is ``keys``.
    """

    def __init__(
        self, app: ASGIApp, *, needs_key: bool, limiter: RateLimiter | None = None
    ) -> None:
        self.app = app
        self.needs_key = needs_key
        self.limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or respond with a problem if the caller may not send the request."""
        if scope["type"] != "http" or _is_open(path := path_of(scope)):
            await self.app(scope, receive, send)
            return
        limiter = None if path in NEVER_REFUSED else self.limiter
        try:
            caller = await self._find_caller(scope)
            limits = limiter.count(caller.client) if limiter else {}
        except Problem as problem:
            await problem_response(problem, scope)(scope, receive, send)
            return
        scope[_CALLER] = caller

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limits)
            await send(message)

        await self.app(scope, receive, send_with_limits if limits else send)

    async def _find_caller(self, scope: Scope) -> Caller:
        if not self.needs_key:
            return ANONYMOUS_CALLER
        resources: Resources = scope["app"].state.resources
        caller = await resources.api_key_cache.authenticate(_token_of(scope))
        if caller is None:
            raise Unauthorized(
                f"This API key is not known, was revoked, or has expired. {_HOW}", brings_key=True
            )
        log_fields(scope)["client"] = caller.client
        return caller


def may(key_scope: KeyScope) -> Callable[[Request], Caller]:
    """A dependency that returns the caller, whose API key must have this scope.

    It raises `Unauthorized` if the caller of a service with API keys was not authenticated, and
    `Forbidden` if the scope is missing.
    """

    def caller_of(request: Request) -> Caller:
        caller: Caller | None = request.scope.get(_CALLER)
        if caller is None:
            resources: Resources = request.app.state.resources
            if resources.settings.auth == "keys":
                raise Unauthorized(_HOW)
            return ANONYMOUS_CALLER
        if key_scope not in caller.scopes:
            raise Forbidden(
                f"This API key does not have the scope `{key_scope}`. Use one that has it, made by "
                f"`iris-api keys create` with `--scope {key_scope}`.",
                needed=key_scope,
            )
        return caller

    return caller_of


Predictor = Annotated[Caller, Depends(may("predict"))]
Reader = Annotated[Caller, Depends(may("read"))]
Admin = Annotated[Caller, Depends(may("admin"))]


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith("/docs/")


def _token_of(scope: Scope) -> str:
    values: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise Unauthorized(f"This needs an API key. {_HOW}")
    scheme, _, token = values[0].decode("latin-1").strip().partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized(f"The header Authorization does not hold one bearer token. {_HOW}")
    return token.strip()
