"""Who a request comes from, as plain values."""

from typing import Literal, NamedTuple, get_args

Scope = Literal["predict", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ANONYMOUS = "anonymous"
"""The client of all requests that come without an API key, where none is asked for."""


class Caller(NamedTuple):
    """Who a request comes from, and what it may do."""

    client: str
    scopes: frozenset[str]
    id_sequence: str | None = None
    """Where its predictions' ids come from; None: the table's own."""


ANONYMOUS_CALLER = Caller(ANONYMOUS, frozenset(SCOPES))
"""Every caller, where no API key is asked for."""
