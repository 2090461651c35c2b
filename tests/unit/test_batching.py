"""The batcher's promises, by example and under any interleaving of calls, cancels and failures."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_api.batching import Batcher, CancelledInFlight
from iris_api.errors import Overloaded


class Gate:
    """A `run` that records its batches and lets each go on only when the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self._steps = asyncio.Semaphore(0)
        self.failing: set[int] = set()

    async def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._steps.acquire()
        finally:
            self.running -= 1
        if any(item < 0 for item in items):
            raise RuntimeError("the batch failed")
        return [ValueError(item) if item in self.failing else item * 10 for item in items]

    def open(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._steps.release()


async def turn() -> None:
    """Let the loop run everything that is ready, several times over."""
    for _ in range(10):
        await asyncio.sleep(0)


def submit(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


def batcher_of(gate: Gate, **bounds: float) -> Batcher[int, int]:
    options: dict[str, Any] = {"max_batch": 100, "max_waiting": 100, "max_wait": 60, **bounds}
    return Batcher(gate, **options)


async def test_a_lone_caller_is_served_at_once() -> None:
    gate = Gate()
    gate.open()
    assert await batcher_of(gate).submit(1) == 10


async def test_callers_of_one_turn_travel_together_and_later_ones_form_the_next_batch() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    first = submit(batcher, 1, 2, 3)
    await turn()
    second = submit(batcher, 4, 5)
    await turn()
    assert gate.batches == [[1, 2, 3]]
    gate.open(2)
    assert await asyncio.gather(*first, *second) == [10, 20, 30, 40, 50]
    assert gate.batches == [[1, 2, 3], [4, 5]]


async def test_a_batch_is_bounded() -> None:
    gate = Gate()
    gate.open(3)
    calls = submit(batcher_of(gate, max_batch=2), 1, 2, 3, 4, 5)
    assert await asyncio.gather(*calls) == [10, 20, 30, 40, 50]
    assert gate.batches == [[1, 2], [3, 4], [5]]


async def test_as_many_batches_run_at_once_as_are_allowed() -> None:
    gate = Gate()
    calls = submit(batcher_of(gate, max_batch=1, max_in_flight=2), 1, 2, 3)
    await turn()
    assert gate.batches == [[1], [2]]
    gate.open(3)
    await asyncio.gather(*calls)
    assert gate.most_running == 2


async def test_callers_past_the_bound_are_refused_at_once() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_batch=1, max_waiting=2)
    [running] = submit(batcher, 1)
    await turn()
    waiting = submit(batcher, 2, 3)
    await turn()
    with pytest.raises(Overloaded):
        await batcher.submit(4)
    gate.open(3)
    assert await asyncio.gather(running, *waiting) == [10, 20, 30]


async def test_who_has_waited_too_long_is_refused_when_the_turn_comes() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_wait=0.01)
    [running] = submit(batcher, 1)
    await turn()
    waiting = submit(batcher, 2, 3)
    await asyncio.sleep(0.02)
    gate.open(2)
    assert await running == 10
    for refused in waiting:
        with pytest.raises(Overloaded, match="Waited"):
            await refused
    assert await batcher.submit(4) == 40
    assert gate.batches == [[1], [4]]


async def test_who_is_cancelled_learns_whether_the_batch_had_begun() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    learned: list[type[BaseException]] = []

    async def note(item: int) -> None:
        try:
            await batcher.submit(item)
        except asyncio.CancelledError as error:
            learned.append(type(error))
            raise

    tasks = []
    for item in (1, 2):
        tasks.append(asyncio.create_task(note(item)))
        await turn()
    for task in reversed(tasks):
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert learned == [asyncio.CancelledError, CancelledInFlight]
    gate.open()
    await batcher.aclose()
    assert gate.batches == [[1]]


async def test_who_is_cancelled_just_before_a_batch_begins_is_told_that_it_had_not() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_batch=1)
    [first] = submit(batcher, 1)
    await turn()
    [second] = submit(batcher, 2)
    await turn()
    second.cancel()
    batcher._take()  # as a batch that begins in the same turn of the loop
    with pytest.raises(asyncio.CancelledError) as error:
        await second
    assert not isinstance(error.value, CancelledInFlight)
    gate.open()
    assert await first == 10


async def test_cancelled_callers_make_room() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_batch=1, max_waiting=1)
    [running] = submit(batcher, 1)
    await turn()
    [left] = submit(batcher, 2)
    await turn()
    left.cancel()
    await turn()
    [taken] = submit(batcher, 3)
    await turn()
    gate.open(2)
    assert [await running, await taken] == [10, 30]
    assert gate.batches == [[1], [3]]


async def test_a_caller_that_is_cancelled_in_flight_takes_nobody_with_it() -> None:
    gate = Gate()
    first, second = submit(batcher_of(gate), 1, 2)
    await turn()
    first.cancel()
    await turn()
    gate.open()
    assert await second == 20
    assert first.cancelled()


async def test_a_failure_of_the_batch_reaches_just_its_callers() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    failing = submit(batcher, 1, -1)
    await turn()
    others = submit(batcher, 2)
    gate.open(2)
    results = await asyncio.gather(*failing, *others, return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int]


async def test_a_failure_of_one_item_reaches_its_caller_alone() -> None:
    gate = Gate()
    gate.failing = {2}
    gate.open()
    calls = submit(batcher_of(gate), 1, 2, 3)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[::2] == [10, 30]
    assert isinstance(results[1], ValueError)


async def test_too_few_results_fail_the_batch_instead_of_hanging_it() -> None:
    async def run(items: list[int]) -> list[int]:
        return items[:-1]

    batcher: Batcher[int, int] = Batcher(run, max_batch=9, max_waiting=9, max_wait=60)
    results = await asyncio.gather(*submit(batcher, 1, 2), return_exceptions=True)
    assert isinstance(results[-1], ValueError)


async def test_closing_answers_what_was_taken_and_takes_no_more() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_batch=1)
    calls = submit(batcher, 1, 2, 3)
    await turn()
    closing = asyncio.create_task(batcher.aclose())
    await turn()
    with pytest.raises(Overloaded):
        await batcher.submit(4)
    assert not closing.done()
    gate.open(3)
    await closing
    assert await asyncio.gather(*calls) == [10, 20, 30]


async def test_a_batch_that_is_torn_down_cancels_its_callers() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    [call] = submit(batcher, 1)
    await turn()
    for task in list(batcher._in_flight):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(-3, 50)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("open"), st.integers(1, 3)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=60,
)
Calls = list[tuple[int, asyncio.Task[int]]]


@given(
    actions=ACTIONS,
    bounds=st.fixed_dictionaries(
        {
            "max_batch": st.integers(1, 4),
            "max_waiting": st.integers(1, 6),
            "max_in_flight": st.integers(1, 3),
        }
    ),
    failing=st.sets(st.integers(0, 50), max_size=5),
)
@settings(max_examples=300, deadline=None)
def test_any_interleaving_leaves_each_caller_with_its_own_outcome(
    actions: list[tuple[str, int]], bounds: dict[str, int], failing: set[int]
) -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.failing = failing
        batcher = batcher_of(gate, **bounds)
        calls = await play(actions, gate, batcher)
        gate.open(len(calls) + 1)
        async with asyncio.timeout(5):  # whoever hangs, fails the test
            await batcher.aclose()
            await asyncio.gather(*(call for _, call in calls), return_exceptions=True)
        assert gate.most_running <= bounds["max_in_flight"]
        assert all(1 <= len(batch) <= bounds["max_batch"] for batch in gate.batches)
        check_outcomes(calls, gate)

    asyncio.run(scenario())


async def play(actions: list[tuple[str, int]], gate: Gate, batcher: Batcher[int, int]) -> Calls:
    calls: Calls = []
    closing: list[asyncio.Task[None]] = []
    for action, number in actions:
        if action == "submit":
            calls.append((number, submit(batcher, number)[0]))
        elif action == "cancel" and calls:
            calls[number % len(calls)][1].cancel()
        elif action == "open":
            gate.open(number)
        elif action == "close":
            closing.append(asyncio.create_task(batcher.aclose()))
        else:
            await turn()
    gate.open(len(calls) + 1)
    await asyncio.gather(*closing)
    return calls


def check_outcomes(calls: Calls, gate: Gate) -> None:
    ran = [item for batch in gate.batches for item in batch]
    poisoned = {item for batch in gate.batches if min(batch) < 0 for item in batch}
    assert len(ran) <= len(calls)
    for item, call in calls:
        error = None if call.cancelled() else call.exception()
        if call.cancelled():
            continue
        if error is None:
            assert call.result() == item * 10
            assert item in ran
        elif isinstance(error, ValueError):
            assert item in gate.failing
        elif isinstance(error, RuntimeError):
            assert item in poisoned
        else:
            assert isinstance(error, Overloaded)
