"""Stores, finds and lists predictions through a session. Writes commit before they return.

Each function raises `DatabaseUnavailable` or `SchemaOutdated` where PostgreSQL cannot serve it;
then nothing was stored. `iris_api.recording.inserts` stores groups and batches.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select, text, tuple_
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.exc import FlushError

from iris_api.batching import CancelledWhileStoring
from iris_api.callers import ANONYMOUS
from iris_api.database.cursor import Cursor
from iris_api.database.failures import (
    is_outcome_unknown,
    translates_failures,
    translates_write_failures,
)
from iris_api.database.history import client_id_of, newest_first
from iris_api.database.models import FormerPredictionId, IdempotencyKey, IrisPrediction
from iris_api.database.names import ensure_client, ensure_model
from iris_api.database.schema import PredictionFilters
from iris_api.errors import NotStored, OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the history, newest first, and the cursor of the next page; None at the end."""

    items: Sequence[IrisPrediction]
    next_cursor: Cursor | None


_SETTLED_UNTIL = text("""
    SELECT least(now(), min(xact_start)) - interval '1 second'
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
""")
"""A row's time is when its transaction began. ``pg_stat_activity`` may not yet show a transaction
that has just begun, hence the second."""


@translates_write_failures
async def create_prediction(
    session: AsyncSession, prediction: IrisPrediction, *, client: str = ANONYMOUS
) -> IrisPrediction:
    """Insert and commit one row; return it with its ``id`` and ``created_at``.

    Raises `NotStored` where PostgreSQL refuses the row or stores other values, `OutcomeUnknown`
    where the connection broke during the commit, and `CancelledWhileStoring` where the caller was
    cancelled during the commit.
    """
    await _ensure_names(session, prediction, client)
    await _insert_as_sent(session, prediction)
    try:
        await session.commit()
    except asyncio.CancelledError as error:
        raise CancelledWhileStoring from error
    except (OSError, DBAPIError) as error:
        if is_outcome_unknown(error):
            raise OutcomeUnknown("PostgreSQL disconnected during the commit.") from error
        raise
    return prediction


async def _ensure_names(session: AsyncSession, prediction: IrisPrediction, client: str) -> None:
    """Set the row's client and ML model, and arrange the probabilities by this one's labels."""
    prediction.client_id = await ensure_client(session, client)
    if prediction.model is None:
        return
    given = prediction.probabilities
    labels = [*prediction.model.labels, prediction.prediction_label]
    model = await ensure_model(session, prediction.model.version, labels)
    prediction.model, prediction.model_id = model, model.id
    if given is not None:
        prediction.class_probabilities = [given.get(label) for label in model.labels]


async def _insert_as_sent(session: AsyncSession, prediction: IrisPrediction) -> None:
    """Insert the row. Roll back and raise `NotStored` if it is missing or has other values."""
    given = prediction.__dict__
    columns = IrisPrediction.__table__.columns
    sent = {one.name: given.get(one.name) for one in columns if one.server_default is None}
    sent |= {name: given[name] for name in ("client_id", "model_id") if name in given}
    session.add(prediction)
    try:
        await session.flush()
        await session.refresh(prediction)
    except (FlushError, InvalidRequestError) as error:
        await session.rollback()
        raise NotStored("PostgreSQL stored no row.") from error
    if any(getattr(prediction, name) != value for name, value in sent.items()):
        await session.rollback()
        raise NotStored("PostgreSQL stored other values than were sent.")


@translates_failures
async def get_prediction(
    session: AsyncSession, prediction_id: UUID, *, client: str = ANONYMOUS
) -> IrisPrediction | None:
    """Return the client's row with this id; None if there is none or it is another client's."""
    row: IrisPrediction | None = await session.scalar(
        select(IrisPrediction).where(
            IrisPrediction.client_id == client_id_of(client), IrisPrediction.id == prediction_id
        )
    )
    return row


@translates_failures
async def find_former_id(
    session: AsyncSession, former_id: int, *, client: str = ANONYMOUS
) -> UUID | None:
    """Return the id of the client's row that had this id before ids were UUIDs; None without."""
    found: UUID | None = await session.scalar(
        select(FormerPredictionId.id)
        .join(IrisPrediction, IrisPrediction.id == FormerPredictionId.id)
        .where(
            FormerPredictionId.former_id == former_id,
            IrisPrediction.client_id == client_id_of(client),
        )
    )
    return found


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
    """Return one page of a client's history, of at most ``limit`` rows, newest first.

    ``after`` starts behind that row, at the same cost at any depth. ``skip`` passes over that many
    rows, at a cost that grows with their number.
    """
    statement = newest_first(client, filters or PredictionFilters(), after, limit + 1 + skip)
    rows = (await session.scalars(statement.limit(limit + 1).offset(skip))).all()
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, Cursor(items[-1].id) if more else None)


@translates_failures
async def settled_until(session: AsyncSession) -> datetime:
    """Return the time before which no new predictions will appear in the history.

    Call it before reading the history. A prediction has the time at which its transaction began,
    but appears when that commits, so a batch may appear behind younger predictions.
    """
    settled: datetime = await session.scalar(_SETTLED_UNTIL)
    return settled


@translates_failures
async def prune_idempotency_keys(session: AsyncSession, *, older_than: timedelta) -> int:
    """Delete at most 10,000 Idempotency-Keys that are older; return how many."""
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
