"""What is asked for, and how it went.

Each request asks for flowers that no other request asks for, so its rows are found by what they
hold, whatever the service says about them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "fail", "unknown"]

# Outcomes as the journal counts them: a state, and why.
OK = "ok"
UNAVAILABLE = "fail 503 database-unavailable"
UNSAFE = "fail 503 database-unsafe"
OVERLOADED = "fail 503 overloaded"
OVERDUE = "fail 503 deadline-exceeded"
REFUSED = "fail refused"
NOT_STORED = "fail 500 not-stored"
UNKNOWN = "unknown 503 outcome-unknown"
LOST = "unknown connection lost"

_STEP = 1e-6
_PETALS = ((1.4, 0.2), (4.5, 1.4), (6.0, 2.2))  # one of each species


def flower(number: int) -> dict[str, float]:
    """The measures that only the flower of this number has."""
    length, width = _PETALS[number % len(_PETALS)]
    sepal_length = round(1 + number * _STEP, 6)
    return {
        "sepal_length": sepal_length,
        "sepal_width": 3.5,
        "petal_length": length,
        "petal_width": width,
    }


def number_of(sepal_length: float) -> int:
    """The flower that has it."""
    return round((sepal_length - 1) / _STEP)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name that the rows carry, and the API key, where one is needed."""

    name: str = "anonymous"
    token: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


ANONYMOUS_CALLER = Caller()


@dataclass(frozen=True, slots=True)
class Request:
    """A request for one flower, or for a batch of ``count``, numbered from ``number`` on."""

    number: int
    count: int | None = None
    key: str | None = None
    caller: Caller = ANONYMOUS_CALLER
    padding: int = 0
    """Blanks after the body's JSON."""

    @property
    def numbers(self) -> range:
        return range(self.number, self.number + (self.count or 1))

    @property
    def path(self) -> str:
        return "/predict" if self.count is None else "/predict/batch"

    @property
    def body(self) -> bytes:
        flowers = [flower(number) for number in self.numbers]
        content = flowers[0] if self.count is None else {"items": flowers}
        return json.dumps(content).encode() + b" " * self.padding

    @property
    def headers(self) -> dict[str, str]:
        key = {} if self.key is None else {"Idempotency-Key": self.key}
        return {"Content-Type": "application/json", **self.caller.headers, **key}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went; ``rows`` are the ids and labels of its answer."""

    state: State
    seconds: float
    why: str = ""
    rows: Sequence[tuple[str, str]] = ()

    @property
    def text(self) -> str:
        """As the journal counts it."""
        return f"{self.state} {self.why}".rstrip()
