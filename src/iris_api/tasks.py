"""Work that goes on beside the requests."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger("iris_api")


@asynccontextmanager
async def in_background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines, none of which is to end by itself, for the length of the block."""
    tasks = [asyncio.create_task(_logged(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Await work whose end, but for being cancelled, is a defect."""
    try:
        await work
    except Exception:
        log.exception("work in the background has ended")
