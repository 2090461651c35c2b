"""A rate limit for each client, told in the fields of draft-ietf-httpapi-ratelimit-headers-10."""

import math
import time
from collections.abc import Callable, Mapping

from iris_api.errors import RateLimited


class RateLimiter:
    """Counts the requests of each client in windows of its own, which begin with its first one.

    It counts for this process alone: every worker gives each client the whole quota.
    """

    def __init__(
        self, quota: int, window: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quota = quota
        self.window = window
        self.clock = clock
        self._policy = f'"client";q={quota};w={window}'
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, client: str) -> Mapping[str, str]:
        """Count a request; return the fields for its answer.

        ``RateLimit`` tells what is left (``r``), and the seconds until all is there again (``t``).
        Raises `RateLimited`, with the fields, where nothing is left; such a request is not counted.
        """
        now = self.clock()
        end, used = self._windows.get(client, (0.0, 0))
        if end <= now:
            end, used = now + self.window, 0
            self._forget_ended(now)
        seconds = min(math.ceil(end - now), self.window)  # the difference is rounded, too
        if used >= self.quota:
            raise RateLimited(
                f"{self.quota} requests in {self.window} s are all that this client may send. "
                f"Go on in {seconds} s.",
                retry_after=seconds,
                headers=self._fields(0, seconds),
            )
        self._windows[client] = (end, used + 1)
        return self._fields(self.quota - used - 1, seconds)

    def _fields(self, remaining: int, seconds: int) -> dict[str, str]:
        return {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"client";r={remaining};t={seconds}',
        }

    def _forget_ended(self, now: float) -> None:
        """Drop the windows that have ended, which stand first: a client's next one comes last."""
        while self._windows:
            client, (end, _) = next(iter(self._windows.items()))
            if end > now:
                return
            del self._windows[client]
