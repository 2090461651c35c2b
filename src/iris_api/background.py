"""Background tasks, which run beside the requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

Work = Callable[[], Awaitable[None]]
log = structlog.get_logger("iris_api")


@asynccontextmanager
async def background_tasks(*works: Work) -> AsyncIterator[None]:
    """Run coroutine functions, which should not end by themselves, until the block ends."""
    tasks = [asyncio.create_task(_logged(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(work: Work) -> None:
    """Run one function and log its exception: only a cancellation should end it."""
    try:
        await work()
    except Exception:
        log.exception("background_task_failed")
