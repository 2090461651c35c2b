"""The caller of a request, as plain values."""

from typing import Literal, NamedTuple, get_args

Scope = Literal["predict", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ANONYMOUS = "anonymous"
"""The client of all requests, where no API key is required."""


class Caller(NamedTuple):
    """The client of one request, and what it may do."""

    client: str
    scopes: frozenset[str]


ANONYMOUS_CALLER = Caller(ANONYMOUS, frozenset(SCOPES))
"""Every caller, where no API key is required."""
