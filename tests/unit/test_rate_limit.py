"""The rate limiter, by a clock of the test's own."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iris_api.auth.rate_limit import RateLimiter
from iris_api.errors import RateLimited

WINDOW = 60


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter_of(clock: Clock, quota: int = 3) -> RateLimiter:
    return RateLimiter(quota, WINDOW, clock=clock)


def left(fields: Mapping[str, str]) -> tuple[int, int]:
    """What is left, and the seconds until all is there again."""
    match = re.fullmatch(r'"client";r=(\d+);t=(\d+)', fields["RateLimit"])
    assert match is not None
    return int(match[1]), int(match[2])


def test_rate_limiter_count_leaves_one_request_less_each_time(clock: Clock) -> None:
    limiter = limiter_of(clock)
    told = []
    for _ in range(3):
        told.append(left(limiter.count("one")))
        clock.now += 10
    assert told == [(2, 60), (1, 50), (0, 40)]


def test_rate_limiter_sends_its_policy_with_each_count_and_refusal(clock: Clock) -> None:
    limiter = limiter_of(clock, quota=1)
    assert limiter.count("one")["RateLimit-Policy"] == '"client";q=1;w=60'
    with pytest.raises(RateLimited) as refusal:
        limiter.count("one")
    assert refusal.value.headers["RateLimit-Policy"] == '"client";q=1;w=60'


def test_rate_limiter_refusal_has_a_correct_retry_after(clock: Clock) -> None:
    limiter = limiter_of(clock, quota=1)
    limiter.count("one")
    clock.now += 12.3
    with pytest.raises(RateLimited) as refusal:
        limiter.count("one")
    assert left(refusal.value.headers) == (0, 48)
    assert refusal.value.headers["Retry-After"] == "48"
    clock.now += 48
    assert left(limiter.count("one")) == (0, 60)


def test_rate_limiter_refused_requests_do_not_delay_the_next_window(clock: Clock) -> None:
    limiter = limiter_of(clock, quota=1)
    limiter.count("one")
    for _ in range(WINDOW - 1):
        clock.now += 1
        with pytest.raises(RateLimited):
            limiter.count("one")
    clock.now += 1
    limiter.count("one")


def test_rate_limiter_counts_each_client_separately(clock: Clock) -> None:
    limiter = limiter_of(clock, quota=1)
    limiter.count("one")
    limiter.count("other")
    for client in ("one", "other"):
        with pytest.raises(RateLimited):
            limiter.count(client)


def test_rate_limiter_forgets_ended_windows(clock: Clock) -> None:
    limiter = limiter_of(clock)
    for number in range(1000):
        limiter.count(f"client-{number}")
    assert len(limiter._windows) == 1000
    clock.now += WINDOW
    limiter.count("another")
    assert list(limiter._windows) == ["another"]


def test_rate_limiter_seconds_to_wait_never_exceed_the_window(clock: Clock) -> None:
    for _ in range(1000):
        clock.now += 0.1
        assert left(limiter_of(clock).count("one")) == (2, WINDOW)


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 100, allow_nan=False)), max_size=100
)


@given(steps=STEPS, quota=st.integers(1, 5))
def test_rate_limiter_with_any_requests_allows_each_window_at_most_the_quota(
    steps: list[tuple[str, float]], quota: int
) -> None:
    clock = Clock()
    limiter = limiter_of(clock, quota)
    windows: dict[str, list[list[float]]] = {client: [] for client in "abc"}
    for client, pause in steps:
        clock.now += pause
        mine = windows[client]
        is_open = bool(mine) and clock.now < mine[-1][0] + WINDOW
        try:
            remaining, seconds = left(limiter.count(client))
        except RateLimited as refusal:
            assert is_open
            assert len(mine[-1]) == quota
            assert clock.now + int(refusal.headers["Retry-After"]) >= mine[-1][0] + WINDOW  # noqa: PT017
        else:
            if is_open:
                mine[-1].append(clock.now)
            else:
                mine.append([clock.now])
            assert remaining == quota - len(mine[-1]) >= 0
            assert 1 <= seconds <= WINDOW
        ends = [end for end, _ in limiter._windows.values()]
        assert ends == sorted(ends), "those that end first stand first"


@given(steps=STEPS)
def test_rate_limiter_with_any_requests_keeps_only_open_windows(
    steps: list[tuple[str, float]],
) -> None:
    clock = Clock()
    limiter = limiter_of(clock, quota=2)
    for number, (name, pause) in enumerate(steps):
        clock.now += pause
        client = f"{name}-{number}"  # each one new, so each looks for what has ended
        limiter.count(client)
        assert client in limiter._windows
        assert all(end > clock.now for end, _ in limiter._windows.values())
