"""A rate limit per client, with the headers of draft-ietf-httpapi-ratelimit-headers-10."""

import math
import time
from collections.abc import Callable, Mapping

from iris_api.errors import RateLimited


class RateLimiter:
    """Counts each client's requests in windows; a window begins with the client's first request.

    ``quota`` is in requests, ``window`` in seconds. Counts for this process alone: every worker
    gives each client the whole quota.
    """

    def __init__(
        self, quota: int, window_seconds: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quota = quota
        self.window_seconds = window_seconds
        self.clock = clock
        self._policy = f'"client";q={quota};w={window_seconds}'
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, client: str) -> Mapping[str, str]:
        """Count a request; return the headers for its response.

        ``RateLimit`` holds the requests left (``r``), and the seconds until the quota is full again
        (``t``). Raises `RateLimited`, with the headers, if none is left; it counts no such request.
        """
        now = self.clock()
        end, used = self._windows.get(client, (0.0, 0))
        if end <= now:
            end, used = now + self.window_seconds, 0
            self._forget_ended(now)
        # Rounding may make the difference larger than the window.
        seconds = min(math.ceil(end - now), self.window_seconds)
        if used >= self.quota:
            raise RateLimited(
                f"{self.quota} requests in {self.window_seconds} s are all that this client may "
                f"send. Go on in {seconds} s.",
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
        """Drop ended windows. They come first: a client's next window is appended at the end."""
        while self._windows:
            client, (end, _) = next(iter(self._windows.items()))
            if end > now:
                return
            del self._windows[client]
