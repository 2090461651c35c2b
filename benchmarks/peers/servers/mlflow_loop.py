"""An event loop for MLflow's scoring server, named to uvicorn with --loop.

MLflow hands every request to the loop's default thread pool. On one core the threads of that pool
only take turns at the interpreter lock, so a pool of one thread is faster than the default of six.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import uvloop


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop loop whose default executor has a single thread."""
    loop = uvloop.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1, thread_name_prefix="model"))
    return loop
