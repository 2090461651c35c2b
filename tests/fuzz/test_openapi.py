"""Cases that schemathesis makes from the service's own OpenAPI document, judged by all its checks.

``FUZZ_CASES`` (10,000) is how many there are at least, ``FUZZ_SEED`` (1) what they are made from.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import schemathesis
from httpx2 import Client
from schemathesis import Case, CheckContext, GenerationMode, HookContext, Response
from schemathesis.checks import CHECKS
from schemathesis.engine import Status, events, from_schema
from tests.support.flowers import SETOSA
from tests.support.service import Service

CASES = int(os.environ.get("FUZZ_CASES", "10000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
PROBLEM = "application/problem+json"
CONFIG = {
    "seed": SEED,
    "continue-on-failure": True,
    "cache": {"enabled": False},
    # A fuzzed operation has one case for each example, a walk along links about six.
    "generation": {"mode": "all", "max-examples": max(CASES // 10, 10), "database": "none"},
    # What earlier answers held is for the walks; elsewhere, to search it costs much of the time.
    "phases": {"fuzzing": {"extra-data-sources": {"responses": False}}},
    # All checks are on. These two take a 503 for an answer by default, which is none here.
    "checks": {
        "enabled": True,
        "positive_data_acceptance": {"expected-statuses": ["2xx", "404"]},
        "negative_data_rejection": {"expected-statuses": ["4xx"]},
    },
}
WITHOUT_EFFECT = {
    "max_response_time",  # no timed test in this repository
}


@schemathesis.check
def every_error_is_a_problem(context: CheckContext, response: Response, case: Case[Any]) -> None:
    """Also those that belong to no operation: the router's own 404 and 405."""
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == [PROBLEM]
    problem = response.json()
    assert problem["type"].startswith("urn:iris-api:problem:")
    assert problem["status"] == response.status_code
    assert [problem["request_id"]] == response.headers["x-request-id"]


@dataclass
class Run:
    """What came of a run of schemathesis."""

    statuses: Counter[int] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    """By phase."""
    checks: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Status] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """The first of each kind, with what sends it again."""

    def take(self, event: events.EngineEvent) -> None:
        match event:
            case events.ScenarioFinished():
                self._take_scenario(event)
            case events.PhaseFinished():
                self.phases[event.phase.name.value] = event.status
            case events.NonFatalError():
                self.failures[f"{event.label}: {event.info.title}"] = event.info.message

    def _take_scenario(self, event: events.ScenarioFinished) -> None:
        for interaction in event.recorder.interactions.values():
            self.cases[event.phase.value] += 1
            status = interaction.response.status_code if interaction.response else 0
            self.statuses[status] += 1
        for check in (check for checks in event.recorder.checks.values() for check in checks):
            self.checks[check.name] += 1
            if info := check.failure_info:
                kind = f"{event.recorder.label}: {check.name}: {info.failure.title}"
                self.failures.setdefault(kind, f"{info.failure.message}\n{info.code_sample}")


@pytest.fixture
def next_cursor(service: Service) -> str:
    with Client(base_url=service.url) as client:
        for _ in range(2):
            assert client.post("/predict", json=SETOSA).status_code == 200
        cursor: str = client.get("/predictions", params={"limit": 1}).json()["next_cursor"]
        return cursor


@pytest.fixture
def _what_no_schema_says(next_cursor: str) -> Iterator[None]:
    """Mend data that are well-formed, and yet refused for what no schema can say of them."""
    keys: set[str] = set()
    numbers = count()

    def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
        if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
            return
        if case.query and case.query.get("cursor") is not None:  # made by the service alone
            case.query["cursor"] = next_cursor
            case.query.pop("skip", None)  # it does not go with a cursor
        for name in {"since", "until"} & set(case.query or ()):
            if str(case.query[name]).startswith(("0001-01-01", "9999-12-31")):
                case.query[name] = "2026-01-31T12:00:00Z"  # in UTC it may be of no year
        key = case.headers.get("Idempotency-Key") if case.headers else None
        if isinstance(key, str):
            is_quoted = key.startswith('"')
            if is_quoted:
                key = re.sub(r"\\(.)", r"\1", key[1:-1])
            if key in keys:  # a key stands for one payload, be it quoted or bare
                key = f"{next(numbers):08}" + ("" if is_quoted else key[8:])
                case.headers["Idempotency-Key"] = f'"{key}"' if is_quoted else key
            keys.add(key)

    schemathesis.hook(before_call)
    yield
    schemathesis.hooks.unregister(before_call)


@pytest.mark.usefixtures("_what_no_schema_says")
def test_openapi_document_agrees_with_the_responses_of_the_service(service: Service) -> None:
    schema = schemathesis.openapi.from_url(
        f"{service.url}/openapi.json", config=schemathesis.Config.from_dict(CONFIG)
    )
    run = Run()
    for event in from_schema(schema).execute():
        run.take(event)
    print(dict(run.cases), dict(run.statuses))  # noqa: T201, pytest shows it where this fails
    assert not run.failures, "\n\n".join(f"{kind}\n{how}" for kind, how in run.failures.items())
    assert sum(run.cases.values()) >= CASES
    assert set(run.statuses) >= {200, 400, 404, 405, 415, 422}
    assert not [status for status in run.statuses if not 200 <= status < 500]
    assert set(run.phases.values()) == {Status.SUCCESS}
    assert set(run.cases) == {"examples", "coverage", "fuzzing", "stateful"}
    assert set(run.checks) == set(CHECKS.get_all_names()) - WITHOUT_EFFECT
