"""What is stored, and how a test keeps it from being stored for a while."""

import asyncio
import threading

import asyncpg
from sqlalchemy import URL
from tests.conftest import dsn_of
from tests.support.application import fetch
from tests.support.service import poll_until


def count_predictions(database: URL) -> int:
    [(count,)] = fetch(database, "SELECT count(*) FROM iris_predictions")
    return int(count)


class HeldUp:
    """No row can be inserted for the length of the block, or for so many seconds of it.

    In ``ACCESS EXCLUSIVE`` mode, none can be read either. Another thread holds the lock.
    """

    def __init__(self, database: URL, seconds: float | None = None, mode: str = "SHARE") -> None:
        self._database = database
        self._seconds = seconds
        self._mode = mode
        self._held, self._released = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._hold()))

    def __enter__(self) -> None:
        self._thread.start()
        poll_until(self._held.is_set, "the table is locked")

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._thread.join()

    async def _hold(self) -> None:
        connection = await asyncpg.connect(dsn_of(self._database))
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK iris_predictions IN {self._mode} MODE")
                self._held.set()
                await asyncio.to_thread(self._released.wait, self._seconds)
        finally:
            await connection.close()
