"""What was asked and what was answered, on disk before anything can die."""

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.faults.asking import ANONYMOUS_CALLER, Caller, Outcome, Request, State, number_of
from tests.faults.verdict import Attempt, Stored, Story, Verdict, judge

_SENT = "sent"


class Journal:
    """An append-only file: a line before each attempt, and a line when its outcome is known."""

    def __init__(self, path: Path, first: int = 1) -> None:
        self.path = path
        self.first = first
        self.counts: Counter[State] = Counter()
        """Of the attempts so far."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._next = first
        self._end = math.inf
        self._attempts = 0
        self._drawn: Counter[Caller] = Counter()
        self._callers: dict[str, Caller] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        os.close(self._file)

    def next_page(self) -> "Journal":
        """Go on in another whose flowers are none of this one's."""
        self._end = self._next
        return Journal(self.path.with_name(f"journal-{self._next}"), self._next)

    def new_request(
        self, count: int | None = None, *, keyed: bool = False, caller: Caller = ANONYMOUS_CALLER
    ) -> Request:
        """Draw flowers that nobody has asked for, and a key that another caller may use as well."""
        with self._lock:
            number = self._next
            self._next += count or 1
            self._callers[caller.name] = caller
            self._drawn[caller] += 1
            key = f"{self.path.name}-{self._drawn[caller]}" if keyed else None
        return Request(number, count, key, caller)

    def sent(self, request: Request) -> int:
        """Write down that a request is about to be sent; return the attempt's number."""
        with self._lock:
            self._attempts += 1
            attempt = self._attempts
        self._write(
            [_SENT, attempt, time.time(), request.number, request.count, request.key,
             request.caller.name]
        )  # fmt: skip
        return attempt

    def ended(self, attempt: int, outcome: Outcome) -> None:
        self._write([outcome.state, attempt, outcome.seconds, outcome.why, list(outcome.rows)])
        with self._lock:
            self.counts[outcome.state] += 1

    def _write(self, line: list[Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def judge(self, rows: Iterable[Stored]) -> Verdict:
        """Hold the journal against the table, less what other pages have asked for."""
        own = [row for row in rows if self.first <= number_of(row.sepal_length) < self._end]
        return judge(self._stories(), own)

    def _stories(self) -> list[Story]:
        stories: dict[int, Story] = {}
        attempts: dict[int, Attempt] = {}
        for text in self.path.read_text().splitlines():
            kind, attempt, *rest = json.loads(text)
            if kind == _SENT:
                sent_at, number, count, key, client = rest
                request = Request(number, count, key, self._callers[client])
                attempts[attempt] = Attempt(sent_at)
                stories.setdefault(number, Story(request)).attempts.append(attempts[attempt])
            else:
                seconds, why, answer = rest
                rows = [(row[0], row[1]) for row in answer]
                attempts[attempt].outcome = Outcome(kind, seconds, why, rows)
        return list(stories.values())
