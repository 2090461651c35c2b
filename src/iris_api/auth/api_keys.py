"""Create, list and revoke API keys, and find their callers by hash.

Each function that writes commits before it returns. Coroutine functions raise what
`translates_failures` says.
"""

import hashlib
import re
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg
from sqlalchemy import func, schema, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.callers import SCOPES, Caller
from iris_api.database.driver_errors import message_of
from iris_api.database.failures import translates_failures
from iris_api.database.models import ApiKey

_PREFIX = "iris_"
"""Lets people and scanners recognise an API key that was published by mistake."""
_RANDOM_BYTES = 32
_ID_RANGES = range(1024, 2**20)
"""The ranges below belong to open access. The last one ends at 2^53, up to which every JSON reader
keeps integers exact."""
_ID_BITS = 33  # in each range
_ID_SEQUENCE = "iris_prediction_ids_"


class Revocation(NamedTuple):
    """When an API key was revoked, and whether that was now or before."""

    at: datetime
    is_new: bool


def digest_of(token: str) -> bytes:
    """The SHA-256 of an API key, 32 bytes: the only form that is stored."""
    return hashlib.sha256(token.encode()).digest()


@translates_failures
async def create_api_key(
    session: AsyncSession, client: str, scopes: Collection[str], lifetime: timedelta | None = None
) -> tuple[ApiKey, str]:
    """Create an API key; return its row, and the API key itself, which is not stored."""
    token = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    id_range = secrets.choice(_ID_RANGES)
    while await session.scalar(select(ApiKey.id).where(ApiKey.id_range == id_range)):
        id_range = secrets.choice(_ID_RANGES)
    row = ApiKey(
        client=client,
        scopes=[scope for scope in SCOPES if scope in scopes],
        digest=digest_of(token),
        id_range=id_range,
        expires_at=None if lifetime is None else func.now() + lifetime,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    await session.execute(schema.CreateSequence(_ids_of(id_range)))
    await session.commit()
    return row, token


def sequence_at_fault(error: asyncpg.PostgresError) -> str | None:
    """The API key's id sequence that this error names, in any language; None for other errors.

    The sequence does not exist, or the service's role may not use it.
    """
    named = re.search(rf"{_ID_SEQUENCE}\d+", message_of(error))
    return named[0] if named and error.sqlstate in {"42P01", "42501"} else None


def _ids_of(id_range: int) -> schema.Sequence:
    """The sequence of one API key's prediction ids: they reveal its own number of rows only."""
    least, end = id_range << _ID_BITS, (id_range + 1) << _ID_BITS
    return schema.Sequence(f"{_ID_SEQUENCE}{id_range}", minvalue=least + 1, maxvalue=end - 1)


@translates_failures
async def list_api_keys(session: AsyncSession) -> Sequence[ApiKey]:
    """All API keys, oldest first, including revoked and expired ones."""
    return (await session.scalars(select(ApiKey).order_by(ApiKey.id))).all()


@translates_failures
async def revoke_api_key(session: AsyncSession, key_id: int) -> Revocation | None:
    """Revoke an API key permanently; None if none has this id."""
    revoked_at = func.coalesce(ApiKey.revoked_at, func.now())
    result = await session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id)
        .values(revoked_at=revoked_at)
        .returning(revoked_at, ApiKey.revoked_at == func.now())
    )
    row = result.one_or_none()
    await session.commit()
    return None if row is None else Revocation(*row)


@translates_failures
async def find_callers(session: AsyncSession, digests: Collection[bytes]) -> dict[bytes, Caller]:
    """The callers of those API keys that are valid now, by digest."""
    rows = await session.execute(
        select(ApiKey.digest, ApiKey.client, ApiKey.scopes, ApiKey.id_range).where(
            ApiKey.digest.in_(digests),
            ApiKey.revoked_at.is_(None),
            ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()),
        )
    )
    return {
        digest: Caller(client, frozenset(scopes), f"{_ID_SEQUENCE}{id_range}")
        for digest, client, scopes, id_range in rows
    }
