"""`iris-api serve` with a defect: the answer leaves before the commit. The suite has to see it.

All else is as it is: with ``IRIS_DATABASE_PGBOUNCER=true`` each statement stands in a transaction
of its own, and of these the COMMIT is left to a task here.
"""

import asyncio
from typing import Any

from asyncpg.transaction import Transaction

from iris_api.__main__ import main

_TURNS = 30
"""Of the event loop, in which the answers are written; there is no other delay."""
_commit, _start = Transaction.commit, Transaction.start
_late: dict[Any, asyncio.Task[None]] = {}
"""For each connection the COMMIT that is still to come."""


async def commit(self: Any) -> None:
    """Have the transaction committed soon, and go on."""
    _late[self._connection] = asyncio.create_task(_commit_late(self))


async def _commit_late(transaction: Transaction) -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    await _commit(transaction)


async def start(self: Any) -> None:
    """Begin, once what was begun before on this connection has ended."""
    late = _late.pop(self._connection, None)
    if late is not None:
        await late
    await _start(self)


if __name__ == "__main__":
    Transaction.commit = commit  # type: ignore[method-assign]
    Transaction.start = start  # type: ignore[method-assign]
    main()
