"""What the journal tells, held against what the table holds."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.faults.asking import Outcome, Request, State, number_of


class Stored(NamedTuple):
    """A row of ``iris_predictions``; ``created_at`` in seconds since 1970."""

    id: str
    sepal_length: float
    label: str
    client: str
    created_at: float

    @property
    def place(self) -> tuple[str, int]:
        """Whose it is, and which flower."""
        return self.client, number_of(self.sepal_length)


@dataclass(slots=True)
class Attempt:
    """One sending of a request; without an outcome where the client itself was ended."""

    sent_at: float
    outcome: Outcome = field(default_factory=lambda: Outcome("unknown", 0, "client ended"))


@dataclass(slots=True)
class Story:
    """All attempts at one request."""

    request: Request
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def state(self) -> State:
        states = {attempt.outcome.state for attempt in self.attempts}
        if "ok" in states:
            return "ok"
        return "unknown" if "unknown" in states else "fail"

    @property
    def earliest_row(self) -> float:
        """When the first attempt was sent that may have stored something."""
        may = [attempt.sent_at for attempt in self.attempts if attempt.outcome.state != "fail"]
        return min(may, default=math.inf)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of requests; the lists hold the numbers of the flowers concerned.

    ``unsettled`` are the requests with a key whose outcome is unknown: asking again tells.
    """

    requests: int
    counts: Counter[State]
    unsettled: Sequence[Request]
    lost: Sequence[int]
    double: Sequence[int]
    ghost: Sequence[int]
    torn: Sequence[int]
    worst: float
    whys: Mapping[str, int]
    """How often which outcome came, of all attempts."""

    def assert_promise_held(self) -> None:
        """Fail where an answer has no row, a row no answer, or a batch only some of its rows."""
        broken = {
            "lost": self.lost,
            "double": self.double,
            "ghost": self.ghost,
            "torn": self.torn,
        }
        shown = {name: f"{len(found)}: {found[:5]}" for name, found in broken.items() if found}
        assert not shown, f"{shown} of {self.requests} requests; {dict(self.whys)}"


def judge(stories: Sequence[Story], rows: Iterable[Stored]) -> Verdict:
    """Find what was answered and is not stored, stored twice, or stored though it was refused.

    A row of another client's than the one who asked is none of the request's, and nobody's.
    """
    stored: dict[tuple[str, int], list[Stored]] = defaultdict(list)
    for row in rows:
        stored[row.place].append(row)
    asked = {place for story in stories for place in _places(story.request)}
    lost: list[int] = []
    ghost = [number for client, number in stored.keys() - asked]
    torn: list[int] = []
    for story in stories:
        found = [stored.get(place, []) for place in _places(story.request)]
        lost += _lost(story, found)
        ghost += [
            number
            for number, rows_of_it in zip(story.request.numbers, found, strict=True)
            if any(row.created_at < story.earliest_row for row in rows_of_it)
        ]
        if story.state == "unknown" and any(found) and not all(found):
            torn.append(story.request.number)
    outcomes = [attempt.outcome for story in stories for attempt in story.attempts]
    return Verdict(
        requests=len(stories),
        counts=Counter(story.state for story in stories),
        unsettled=[s.request for s in stories if s.state == "unknown" and s.request.key],
        lost=lost,
        double=[number for (_, number), found in stored.items() if len(found) > 1],
        ghost=sorted(ghost),
        torn=torn,
        worst=max((outcome.seconds for outcome in outcomes), default=0.0),
        whys=Counter(outcome.text for outcome in outcomes),
    )


def _places(request: Request) -> list[tuple[str, int]]:
    return [(request.caller.name, number) for number in request.numbers]


def _lost(story: Story, found: Sequence[Sequence[Stored]]) -> list[int]:
    """The flowers whose row some answer showed, and that have no such row."""
    lost: set[int] = set()
    for outcome in (attempt.outcome for attempt in story.attempts):
        if outcome.state != "ok":
            continue
        if len(outcome.rows) != len(story.request.numbers):
            return list(story.request.numbers)
        answered = zip(story.request.numbers, outcome.rows, found, strict=True)
        lost |= {
            number
            for number, row, rows in answered
            if row not in [(one.id, one.label) for one in rows]
        }
    return sorted(lost)
