"""Leases: which process does a task that one is to do for all replicas.

A lease is a row with a time, not a lock of a session: it works through PgBouncer, and ends by
itself where its holder dies.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.failures import translates_failures
from iris_api.database.models import Lease


@asynccontextmanager
async def lease(session: AsyncSession, name: str, *, seconds: float) -> AsyncIterator[bool]:
    """Yield whether this process has the lease, for so many seconds from now.

    It is given back at the end, but not after an exception: then another try has to wait for it.
    """
    holder = f"{socket.gethostname()} {os.getpid()}"
    is_held = await _take(session, name, holder, seconds)
    yield is_held
    if is_held:
        await _give_back(session, name, holder)


@translates_failures
async def _take(session: AsyncSession, name: str, holder: str, seconds: float) -> bool:
    new = insert(Lease).values(
        name=name, holder=holder, until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    )
    taken = await session.scalar(
        new.on_conflict_do_update(
            index_elements=[Lease.name],
            set_={"holder": new.excluded.holder, "until": new.excluded.until},
            where=Lease.until < func.now(),
        ).returning(Lease.name)
    )
    await session.commit()
    return taken is not None


@translates_failures
async def _give_back(session: AsyncSession, name: str, holder: str) -> None:
    await session.execute(
        update(Lease).where(Lease.name == name, Lease.holder == holder).values(until=func.now())
    )
    await session.commit()
