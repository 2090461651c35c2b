"""Create, list and revoke API keys, and find their callers by hash.

Each function that writes commits before it returns. Coroutine functions raise what
`translates_failures` says.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.callers import SCOPES, Caller
from iris_api.database.failures import translates_failures
from iris_api.database.models import ApiKey

_PREFIX = "iris_"
"""Lets people and scanners recognise an API key that was published by mistake."""
_RANDOM_BYTES = 32


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
    row = ApiKey(
        client=client,
        scopes=[scope for scope in SCOPES if scope in scopes],
        digest=digest_of(token),
        expires_at=None if lifetime is None else func.now() + lifetime,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    await session.commit()
    return row, token


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
        select(ApiKey.digest, ApiKey.client, ApiKey.scopes).where(
            ApiKey.digest.in_(digests),
            ApiKey.revoked_at.is_(None),
            ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()),
        )
    )
    return {digest: Caller(client, frozenset(scopes)) for digest, client, scopes in rows}
