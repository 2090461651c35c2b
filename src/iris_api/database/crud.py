"""Single predictions and pages of them, by a session. What writes has committed when it returns.

Each function raises `DatabaseUnavailable` or `SchemaOutdated` where PostgreSQL cannot do its part;
then nothing was stored. How groups and batches are stored is `iris_api.database.writes`' matter.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.cursor import Cursor
from iris_api.database.failures import is_outcome_unknown, translates_failures
from iris_api.database.models import ANONYMOUS, IdempotencyKey, IrisPrediction
from iris_api.database.pool import watch_of
from iris_api.database.schema import PredictionFilters
from iris_api.database.transactions import CancelledWhileStoring, driver_transaction
from iris_api.errors import OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the history, newest first, and where the next page begins; None at the end."""

    items: Sequence[IrisPrediction]
    next_cursor: Cursor | None


@translates_failures
async def create_prediction(session: AsyncSession, prediction: IrisPrediction) -> IrisPrediction:
    """Insert and commit one row, and return it with its ``id`` and ``created_at``.

    Raises `OutcomeUnknown` where the connection broke during the commit, `CancelledWhileStoring`
    where the caller was cancelled meanwhile.
    """
    session.add(prediction)
    await session.flush()
    try:
        await session.commit()
    except asyncio.CancelledError as error:
        raise CancelledWhileStoring from error
    except (OSError, DBAPIError) as error:
        if is_outcome_unknown(error):
            raise OutcomeUnknown("PostgreSQL broke off during the commit.") from error
        raise
    return prediction


@translates_failures
async def get_prediction(
    session: AsyncSession, prediction_id: int, *, client: str = ANONYMOUS
) -> IrisPrediction | None:
    """The client's row with this id, or None, as for another client's."""
    row = await session.get(IrisPrediction, prediction_id)
    return row if row is not None and row.client == client else None


@translates_failures
async def list_predictions(
    session: AsyncSession,
    filters: PredictionFilters | None = None,
    *,
    client: str = ANONYMOUS,
    limit: int = 50,
    skip: int = 0,
    after: Cursor | None = None,
) -> Page:
    """One page of a client's history, newest first.

    ``after`` starts behind that row, at the same cost at any depth; ``skip`` counts rows off, and
    costs as much as it skips.
    """
    statement = _newest_first(client, filters or PredictionFilters())
    if after is not None:
        position = tuple_(IrisPrediction.created_at, IrisPrediction.id)
        statement = statement.where(position < (after.created_at, after.id))
    rows = (await session.scalars(statement.limit(limit + 1).offset(skip))).all()
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, Cursor(items[-1].created_at, items[-1].id) if more else None)


def _newest_first(client: str, filters: PredictionFilters) -> Select[IrisPrediction]:
    statement = (
        select(IrisPrediction)
        .where(IrisPrediction.client == client)
        .order_by(IrisPrediction.created_at.desc(), IrisPrediction.id.desc())
    )
    if filters.label is not None:
        statement = statement.where(IrisPrediction.prediction_label == filters.label)
    if filters.model_version is not None:
        statement = statement.where(IrisPrediction.model_version == filters.model_version)
    if filters.since is not None:
        statement = statement.where(IrisPrediction.created_at >= filters.since)
    if filters.until is not None:
        statement = statement.where(IrisPrediction.created_at < filters.until)
    return statement


@translates_failures
async def prune_idempotency_keys(session: AsyncSession, *, older_than: timedelta) -> int:
    """Forget at most 10,000 keys that are older; return how many."""
    old = (
        select(IdempotencyKey.client, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - older_than)
        .limit(10_000)
        .with_for_update(skip_locked=True)
    )
    keys = tuple_(IdempotencyKey.client, IdempotencyKey.key)
    deleted = await session.scalars(
        delete(IdempotencyKey).where(keys.in_(old)).returning(IdempotencyKey.is_batch)
    )
    count = len(deleted.all())
    await session.commit()
    return count


@translates_failures
async def ping(session: AsyncSession) -> None:
    """Return when PostgreSQL has said that it would store predictions, and durably.

    Raises `DatabaseUnsafe` as well.
    """
    connection = await (await session.connection()).get_raw_connection()
    async with driver_transaction(connection, writes=False) as driver:
        await watch_of(connection).look(driver)
