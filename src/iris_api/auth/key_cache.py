"""Who an API key belongs to: asked of PostgreSQL, and remembered for a few seconds."""

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

    What was found is believed for ``remember`` seconds, so that a request costs no query; that is
    how long a revoked key may still work. A key that is not valid is remembered as well. Questions
    that arrive while PostgreSQL is being asked form one next question: nobody, however many keys he
    tries, has more than one connection busy.
    """

    def __init__(self, session_factory: SessionFactory, *, remember: float) -> None:
        self._session_factory = session_factory
        self._seconds = remember
        self._remembered: dict[bytes, tuple[float, Caller | None]] = {}
        self._batcher: Batcher[bytes, Caller | None] = Batcher(
            self._ask, max_batch=_MAX_BATCH, max_waiting=_MAX_WAITING, max_wait=_MAX_WAIT
        )

    async def authenticate(self, token: str) -> Caller | None:
        """The caller; None where the key is not valid.

        Raises `Overloaded`, `DatabaseUnavailable` or `SchemaOutdated` where nobody can say.
        """
        digest = digest_of(token)
        known = self._remembered.get(digest)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        return await self._batcher.submit(digest)

    async def aclose(self) -> None:
        """Take no more questions; return when those that were taken have their answers."""
        await self._batcher.aclose()

    async def _ask(self, digests: Sequence[bytes]) -> list[Caller | None]:
        until = time.monotonic() + self._seconds  # from before, for it may be revoked meanwhile
        async with self._session_factory() as session:
            found = await find_callers(session, set(digests))
        for digest in digests:
            self._remembered.pop(digest, None)  # so that the oldest come first
            self._remembered[digest] = (until, found.get(digest))
        while len(self._remembered) > _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return [found.get(digest) for digest in digests]
