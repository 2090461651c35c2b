"""The judge, on stories that are made up."""

import pytest
from tests.faults.asking import Caller, Outcome, Request, State, flower
from tests.faults.verdict import Attempt, Stored, Story, Verdict, judge

LABEL = "setosa"
SENT = 100.0  # when the first attempt was sent
LATER = 200.0  # and the second


def row(number: int, row_id: int = 1, *, client: str = "anonymous", at: float = SENT + 1) -> Stored:
    return Stored(str(row_id), flower(number)["sepal_length"], LABEL, client, at)


def outcome(state: State, *ids: int) -> Outcome:
    return Outcome(state, 0.1, rows=[(str(one), LABEL) for one in ids])


def story(
    *outcomes: Outcome, number: int = 1, count: int | None = None, caller: str = "anonymous"
) -> Story:
    request = Request(number, count, "a key", Caller(caller))
    attempts = [Attempt(SENT), Attempt(LATER)][: len(outcomes)]
    for attempt, how in zip(attempts, outcomes, strict=True):
        attempt.outcome = how
    return Story(request, attempts)


def broken(verdict: Verdict) -> dict[str, list[int]]:
    """What the promise's assertion complains of."""
    found = {name: list(getattr(verdict, name)) for name in ("lost", "double", "ghost", "torn")}
    found = {name: numbers for name, numbers in found.items() if numbers}
    if not found:
        verdict.assert_promise_held()
        return {}
    with pytest.raises(AssertionError) as raised:
        verdict.assert_promise_held()
    assert all(f"'{name}'" in str(raised.value) for name in found)
    return found


OK, FAIL, UNKNOWN = outcome("ok", 1), outcome("fail"), outcome("unknown")


@pytest.mark.parametrize(
    ("stories", "rows"),
    [
        ([story(OK)], [row(1)]),
        ([story(FAIL)], []),
        ([story(UNKNOWN)], []),
        ([story(UNKNOWN)], [row(1)]),
        ([story(UNKNOWN, OK)], [row(1)]),
        ([story(UNKNOWN, OK)], [row(1, at=LATER + 1)]),
        ([story(FAIL, OK)], [row(1, at=LATER + 1)]),
        ([story(UNKNOWN, FAIL)], [row(1)]),
        ([story(OK, OK)], [row(1)]),
        ([story(outcome("ok", 1, 2), count=2)], [row(1), row(2, 2)]),
        ([story(UNKNOWN, count=2)], [row(1), row(2, 2)]),
        ([story(OK, caller="a")], [row(1, client="a")]),
    ],
)
def test_judge_of_promised_outcomes_finds_nothing(stories: list[Story], rows: list[Stored]) -> None:
    assert broken(judge(stories, rows)) == {}


@pytest.mark.parametrize(
    ("stories", "rows", "complaint"),
    [
        ([story(OK)], [], {"lost": [1]}),
        ([story(OK)], [row(1, 2)], {"lost": [1]}),  # the row has another id than was answered
        ([story(OK)], [row(1)._replace(label="virginica")], {"lost": [1]}),
        ([story(UNKNOWN, OK)], [], {"lost": [1]}),
        ([story(OK, FAIL)], [], {"lost": [1]}),
        ([story(OK, outcome("ok", 2))], [row(1)], {"lost": [1]}),  # two answers, one row
        ([story(outcome("ok", 1, 2), count=2)], [row(1)], {"lost": [2]}),
        ([story(outcome("ok", 1), count=2)], [row(1), row(2, 2)], {"lost": [1, 2]}),
        ([story(outcome("ok", 2, 1), count=2)], [row(1), row(2, 2)], {"lost": [1, 2]}),
    ],
)
def test_judge_of_a_response_without_its_row_finds_it_lost(
    stories: list[Story], rows: list[Stored], complaint: dict[str, list[int]]
) -> None:
    assert broken(judge(stories, rows)) == complaint


@pytest.mark.parametrize("one", [story(OK), story(UNKNOWN), story(UNKNOWN, OK)])
def test_judge_of_two_rows_of_one_request_finds_it_double(one: Story) -> None:
    assert broken(judge([one], [row(1), row(1, 2, at=LATER + 1)])) == {"double": [1]}


@pytest.mark.parametrize(
    ("stories", "rows"),
    [
        ([story(FAIL)], [row(1)]),
        ([story(FAIL)], [row(1, at=LATER + 1000)]),  # committed very late
        ([story(FAIL, FAIL)], [row(1)]),
        ([story(FAIL, OK)], [row(1)]),  # the second attempt has found what the first had stored
        ([story(FAIL, UNKNOWN)], [row(1)]),
        ([], [row(1)]),
    ],
)
def test_judge_of_a_row_of_a_refused_request_finds_a_ghost(
    stories: list[Story], rows: list[Stored]
) -> None:
    assert broken(judge(stories, rows)) == {"ghost": [1]}


def test_judge_of_a_row_under_another_client_finds_it_lost_and_a_ghost() -> None:
    verdict = judge([story(OK, caller="a")], [row(1, client="b")])
    assert broken(verdict) == {"lost": [1], "ghost": [1]}


def test_judge_of_a_partly_stored_batch_finds_it_torn() -> None:
    assert broken(judge([story(UNKNOWN, count=2)], [row(1)])) == {"torn": [1]}


def test_judge_counts_each_request_once_and_each_outcome() -> None:
    verdict = judge([story(UNKNOWN, OK), story(FAIL, number=2), story(UNKNOWN, number=3)], [row(1)])
    assert (verdict.requests, dict(verdict.counts)) == (3, {"ok": 1, "fail": 1, "unknown": 1})
    assert dict(verdict.whys) == {"unknown": 2, "ok": 1, "fail": 1}
    assert [request.number for request in verdict.unsettled] == [3]


def test_judge_counts_an_attempt_without_an_outcome_as_unknown() -> None:
    verdict = judge([Story(Request(1), [Attempt(SENT)])], [])
    assert verdict.counts["unknown"] == 1
