"""Looks up callers by API key in PostgreSQL, and caches them for a few seconds."""

import time
from collections.abc import Sequence

from iris_api.auth.api_keys import digest_of, find_callers
from iris_api.batching import Batcher
from iris_api.callers import Caller
from iris_api.database.session import SessionFactory

_MAX_REMEMBERED = 10_000
_MAX_BATCH = 256
_MAX_WAITING = 1024
_MAX_WAIT = 3.0  # seconds


class ApiKeyCache:
    """Finds the callers of API keys.

    Results are cached for ``ttl_seconds``, so most requests cost no query. A revoked API key
    may still work for that long. Invalid API keys are cached as well. Lookups that arrive during a
    query share the next one, so lookups use at most one connection, however many API keys are
    tried.
    """

    def __init__(self, session_factory: SessionFactory, *, ttl_seconds: float) -> None:
        self._session_factory = session_factory
        self._ttl_seconds = ttl_seconds
        self._remembered: dict[bytes, tuple[float, Caller | None]] = {}
        self._batcher: Batcher[bytes, Caller | None] = Batcher(
            self._ask, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING, max_wait_seconds=_MAX_WAIT
        )

    async def authenticate(self, token: str) -> Caller | None:
        """The caller; None if the API key is not valid.

        Raises `Overloaded`, `DatabaseUnavailable` or `SchemaOutdated` if the lookup fails.
        """
        digest = digest_of(token)
        known = self._remembered.get(digest)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        return await self._batcher.submit(digest)

    async def aclose(self) -> None:
        """Refuse new lookups; return when the accepted ones have their results."""
        await self._batcher.aclose()

    async def _ask(self, digests: Sequence[bytes]) -> list[Caller | None]:
        # Before the query, which may miss a revocation.
        until = time.monotonic() + self._ttl_seconds
        async with self._session_factory() as session:
            found = await find_callers(session, set(digests))
        for digest in digests:
            self._remembered.pop(digest, None)  # keeps the oldest first
            self._remembered[digest] = (until, found.get(digest))
        while len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return [found.get(digest) for digest in digests]
