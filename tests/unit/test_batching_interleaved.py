"""The batcher's promises under any interleaving of calls, cancels and failures."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.gate import Gate, batcher_of, submit, turn

from iris_api.batching import Batcher
from iris_api.errors import Overloaded

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
def test_batcher_with_any_interleaving_gives_each_caller_its_own_outcome(
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
