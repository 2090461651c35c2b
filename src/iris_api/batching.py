"""Batching without a timer: items that arrive while a batch runs form the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from iris_api.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class CancelledInFlight(asyncio.CancelledError):
    """The caller was cancelled after its batch had begun, so its item is being processed."""


class CancelledWhileStoring(asyncio.CancelledError):
    """The caller was cancelled after PostgreSQL had begun, so its row may still be stored."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """An item, and the future of its caller."""

    item: Item
    future: asyncio.Future[Result]
    since: float
    has_begun: bool = False


class Batcher(Generic[Item, Result]):
    """Turns calls for one item into calls for many.

    ``run`` takes the items of a batch and returns as many results, in their order. A result that is
    an exception is raised for its caller only. An exception that ``run`` raises is raised for each
    caller of the batch.

    A lone caller does not wait: its batch starts at the loop's next turn. Callers that arrive while
    ``max_in_flight`` batches run form the next one, of at most ``max_batch`` items. At most
    ``max_waiting`` items wait. A batch runs in its own task, so a cancelled caller does not affect
    the others. A batch leaves out items whose caller was cancelled before it began, and items that
    waited for over ``max_wait_seconds``: under overload, its results are in time.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_batch: int,
        max_waiting: int,
        max_wait_seconds: float,
        max_in_flight: int = 1,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._max_wait_seconds = max_wait_seconds
        self._max_in_flight = max_in_flight
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._unbegun = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many items no batch has taken yet, those of cancelled callers among them."""
        return len(self._waiting)

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result and return it.

        Raises `Overloaded` where ``max_waiting`` callers wait already, the item has waited too
        long, or the batcher is closed; then the item was not processed. A cancelled caller gets
        `CancelledInFlight` if its batch has begun; otherwise the item is not processed.
        """
        if self._closed:
            raise Overloaded("The service is stopping. Try again, at another replica.")
        if len(self._waiting) >= self._max_waiting:
            self._forget_cancelled()
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests wait already. Try again soon.")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        self._start_batches()
        try:
            return await waiting.future
        except asyncio.CancelledError as error:
            if waiting.has_begun:
                raise CancelledInFlight from error
            raise

    async def aclose(self) -> None:
        """Refuse new items; return when all earlier ones have their results."""
        self._closed = True
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def _start_batches(self) -> None:
        """Start batches while items wait that no started batch will take.

        A batch takes its items when its task begins, not here, so items that arrive in the same
        turn of the loop share a batch.
        """
        while (
            len(self._in_flight) < self._max_in_flight
            and len(self._waiting) > self._unbegun * self._max_batch
        ):
            self._unbegun += 1
            # An empty context: a batch serves many requests, so it logs for none of them.
            task = asyncio.create_task(self._run_batch(), context=Context())
            self._in_flight.add(task)
            task.add_done_callback(self._on_landed)

    def _on_landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._start_batches()

    async def _run_batch(self) -> None:
        self._unbegun -= 1
        batch = self._take()
        if not batch:
            return
        try:
            results = await self._run([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue  # its caller was cancelled
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        except Exception as error:  # noqa: BLE001, the callers get it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        except BaseException:  # the loop is being torn down
            for _, future in batch:
                future.cancel()
            raise

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        oldest = asyncio.get_running_loop().time() - self._max_wait_seconds
        while self._waiting and len(batch) < self._max_batch:
            waiting = self._waiting.popleft()
            if waiting.future.done():
                continue
            if waiting.since < oldest:
                problem = Overloaded(
                    f"Waited for over {self._max_wait_seconds:g} s. Try again soon."
                )
                waiting.future.set_exception(problem)
            else:
                waiting.has_begun = True
                batch.append((waiting.item, waiting.future))
        return batch

    def _forget_cancelled(self) -> None:
        self._waiting = deque(one for one in self._waiting if not one.future.done())
