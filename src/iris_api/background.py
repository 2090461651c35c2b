"""Work that goes on beside the requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

Work = Callable[[], Awaitable[None]]
log = structlog.get_logger("iris_api")


@asynccontextmanager
async def background_tasks(*works: Work) -> AsyncIterator[None]:
    """Run coroutine functions, none of which is to end by itself, for the length of the block."""
    tasks = [asyncio.create_task(_logged(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(work: Work) -> None:
    """Do work whose end, but for being cancelled, is a defect."""
    try:
        await work()
    except Exception:
        log.exception("background_task_failed")
