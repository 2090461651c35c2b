"""The batcher's promises, one example each."""

import asyncio

import pytest
from tests.unit.gate import Gate, batcher_of, submit, turn

from iris_api.batching import Batcher, CancelledInFlight
from iris_api.errors import Overloaded


async def test_batcher_with_one_caller_answers_at_once() -> None:
    gate = Gate()
    gate.open()
    assert await batcher_of(gate).submit(1) == 10


async def test_batcher_with_callers_of_two_turns_runs_one_batch_for_each_turn() -> None:
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


async def test_batcher_with_more_callers_than_max_batch_splits_them() -> None:
    gate = Gate()
    gate.open(3)
    calls = submit(batcher_of(gate, max_batch=2), 1, 2, 3, 4, 5)
    assert await asyncio.gather(*calls) == [10, 20, 30, 40, 50]
    assert gate.batches == [[1, 2], [3, 4], [5]]


async def test_batcher_runs_max_in_flight_batches_at_once() -> None:
    gate = Gate()
    calls = submit(batcher_of(gate, max_batch=1, max_in_flight=2), 1, 2, 3)
    await turn()
    assert gate.batches == [[1], [2]]
    gate.open(3)
    await asyncio.gather(*calls)
    assert gate.most_running == 2


async def test_batcher_with_max_waiting_callers_refuses_the_next_at_once() -> None:
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


async def test_batcher_with_callers_waiting_too_long_refuses_them() -> None:
    gate = Gate()
    batcher = batcher_of(gate, max_wait_seconds=0.01)
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


async def test_batcher_with_a_cancelled_caller_raises_in_flight_if_its_batch_began() -> None:
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


async def test_batcher_with_a_caller_cancelled_just_before_its_batch_is_not_in_flight() -> None:
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


async def test_batcher_with_a_cancelled_waiting_caller_accepts_another() -> None:
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


async def test_batcher_with_a_caller_cancelled_in_flight_answers_the_others() -> None:
    gate = Gate()
    first, second = submit(batcher_of(gate), 1, 2)
    await turn()
    first.cancel()
    await turn()
    gate.open()
    assert await second == 20
    assert first.cancelled()


async def test_batcher_with_a_failed_batch_fails_only_its_callers() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    failing = submit(batcher, 1, -1)
    await turn()
    others = submit(batcher, 2)
    gate.open(2)
    results = await asyncio.gather(*failing, *others, return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int]


async def test_batcher_with_a_failed_item_fails_only_its_caller() -> None:
    gate = Gate()
    gate.failing = {2}
    gate.open()
    calls = submit(batcher_of(gate), 1, 2, 3)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[::2] == [10, 30]
    assert isinstance(results[1], ValueError)


async def test_batcher_with_too_few_results_fails_the_batch() -> None:
    async def run(items: list[int]) -> list[int]:
        return items[:-1]

    batcher: Batcher[int, int] = Batcher(run, max_batch=9, max_waiting=9, max_wait_seconds=60)
    results = await asyncio.gather(*submit(batcher, 1, 2), return_exceptions=True)
    assert isinstance(results[-1], ValueError)


async def test_batcher_aclose_answers_accepted_callers_and_refuses_new_ones() -> None:
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


async def test_batcher_with_a_cancelled_batch_cancels_its_callers() -> None:
    gate = Gate()
    batcher = batcher_of(gate)
    [call] = submit(batcher, 1)
    await turn()
    for task in list(batcher._in_flight):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
