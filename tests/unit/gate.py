"""A batcher whose batches wait for the test."""

import asyncio
from collections.abc import Sequence
from typing import Any

from iris_api.batching import Batcher


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
    options: dict[str, Any] = {
        "max_batch": 100,
        "max_waiting": 100,
        "max_wait_seconds": 60,
        **bounds,
    }
    return Batcher(gate, **options)
