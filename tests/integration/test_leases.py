"""Leases, through the service's own connection."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.leases import lease
from iris_api.database.session import session_scope
from iris_api.settings import Settings


async def test_lease_of_one_name_is_held_once_at_a_time(
    session: AsyncSession, settings: Settings
) -> None:
    async with lease(session, "one", seconds=60) as is_held, session_scope(settings) as other:
        assert is_held
        async with lease(other, "one", seconds=60) as is_held_twice:
            assert not is_held_twice
        async with lease(other, "two", seconds=60) as is_other_held:
            assert is_other_held
    async with lease(session, "one", seconds=60) as is_held:
        assert is_held


async def test_lease_is_taken_by_one_of_many_at_once(settings: Settings) -> None:
    all_tried = asyncio.Barrier(8)

    async def take() -> bool:
        async with session_scope(settings) as own, lease(own, "one", seconds=60) as is_held:
            await all_tried.wait()
        return is_held

    assert sum(await asyncio.gather(*(take() for _ in range(8)))) == 1


async def test_lease_after_an_exception_is_held_until_its_time(
    session: AsyncSession, connection: asyncpg.Connection
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with lease(session, "one", seconds=60):
            raise ZeroDivisionError
    async with lease(session, "one", seconds=60) as is_held:
        assert not is_held
    left = await connection.fetchval("SELECT until - now() FROM leases")
    assert 0 < left.total_seconds() <= 60
    await connection.execute("UPDATE leases SET until = now()")
    async with lease(session, "one", seconds=60) as is_held:
        assert is_held
