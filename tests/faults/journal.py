"""What was asked and what was answered, on disk before anything can die; and the verdict over it.

Each request asks for flowers that no other request asks for, so its rows are found by what they
hold, whatever the service says about them.
"""

import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "fail", "unknown"]
Stored = tuple[int, float, str]
"""A row of ``iris_predictions``: id, sepal_length, prediction_label."""

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
class Request:
    """A request for one flower, or for a batch of ``count``, numbered from ``number`` on."""

    number: int
    count: int | None = None
    key: str | None = None
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
        return {"Content-Type": "application/json", **key}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request went; ``rows`` are the ids and labels of its answer."""

    state: State
    seconds: float
    why: str = ""
    rows: Sequence[tuple[int, str]] = ()


@dataclass(slots=True)
class _Story:
    """All that the journal tells of one request."""

    request: Request
    states: list[State] = field(default_factory=list)
    answers: list[list[tuple[int, str]]] = field(default_factory=list)

    @property
    def state(self) -> State:
        if "ok" in self.states:
            return "ok"
        # One that was sent and has no outcome: the client itself was ended.
        return "fail" if self.states and set(self.states) == {"fail"} else "unknown"


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
    p99: float
    whys: Mapping[str, int]

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


class Journal:
    """An append-only file: a line before each request, and a line when its outcome is known."""

    def __init__(self, path: Path, first: int = 1) -> None:
        self.path = path
        self.first = first
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._next = first
        self.answered = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        os.close(self._file)

    def next_page(self) -> "Journal":
        """End this one, and go on in another whose flowers are none of this one's."""
        self.close()
        return Journal(self.path.with_name(f"journal-{self._next}"), self._next)

    def new_request(self, count: int | None = None, *, keyed: bool = False) -> Request:
        """Draw flowers that nobody has asked for."""
        with self._lock:
            number = self._next
            self._next += count or 1
        return Request(number, count, f"{self.path.name}-{number}" if keyed else None)

    def sent(self, request: Request) -> None:
        self._write(["sent", request.number, request.count, request.key])

    def ended(self, request: Request, outcome: Outcome) -> None:
        self._write(
            [outcome.state, request.number, outcome.seconds, outcome.why, list(outcome.rows)]
        )
        with self._lock:
            self.answered += 1

    def _write(self, line: list[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def judge(self, rows: Iterable[Stored]) -> Verdict:
        """Hold the journal against the table."""
        stories: dict[int, _Story] = {}
        whys: Counter[str] = Counter()
        durations: list[float] = []
        for text in self.path.read_text().splitlines():
            kind, number, *rest = json.loads(text)
            if kind == "sent":
                stories.setdefault(number, _Story(Request(number, *rest)))
                continue
            seconds, why, answered = rest
            stories[number].states.append(kind)
            whys[f"{kind} {why}".rstrip()] += 1
            durations.append(seconds)
            if kind == "ok":
                stories[number].answers.append([(row[0], row[1]) for row in answered])
        own = [row for row in rows if number_of(row[1]) >= self.first]
        return _judge(list(stories.values()), own, durations, whys)


def _judge(
    stories: Sequence[_Story],
    rows: Iterable[Stored],
    durations: Sequence[float],
    whys: Mapping[str, int],
) -> Verdict:
    stored: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for row_id, sepal_length, label in rows:
        stored[number_of(sepal_length)].append((row_id, label))
    asked = {number for story in stories for number in story.request.numbers}
    lost: list[int] = []
    ghost = sorted(stored.keys() - asked)
    torn: list[int] = []
    for story in stories:
        found = [stored.get(number, []) for number in story.request.numbers]
        lost += [number for answer in story.answers for number in _lost(story, answer, found)]
        if story.state == "fail":
            ghost += [number for number in story.request.numbers if number in stored]
        elif story.state == "unknown" and any(found) and not all(found):
            torn.append(story.request.numbers[0])
    double = [number for number, found in stored.items() if len(found) > 1]
    counts = Counter(story.state for story in stories)
    unsettled = [
        story.request for story in stories if story.state == "unknown" and story.request.key
    ]
    ordered = sorted(durations)
    return Verdict(
        requests=len(stories),
        counts=counts,
        unsettled=unsettled,
        lost=lost,
        double=double,
        ghost=ghost,
        torn=torn,
        worst=max(ordered, default=0.0),
        p99=ordered[len(ordered) * 99 // 100] if ordered else 0.0,
        whys=whys,
    )


def _lost(
    story: _Story, answer: Sequence[tuple[int, str]], found: Sequence[Sequence[tuple[int, str]]]
) -> list[int]:
    if len(answer) != len(story.request.numbers):
        return list(story.request.numbers)
    pairs = zip(story.request.numbers, answer, found, strict=True)
    return [number for number, row, rows in pairs if row not in rows]
