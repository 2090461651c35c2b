"""Every SQL statement of the service. What writes has committed when it returns.

Each function raises `DatabaseUnavailable` or `SchemaOutdated` where PostgreSQL cannot do its part;
then nothing was written, unless the connection broke during the commit itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.cursor import Cursor
from iris_api.database.failures import translates_failures
from iris_api.database.models import IrisPrediction
from iris_api.database.schema import PredictionFilters


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the history, newest first, and where the next page begins; None at the end."""

    items: Sequence[IrisPrediction]
    next_cursor: Cursor | None


@translates_failures
async def create_prediction(session: AsyncSession, prediction: IrisPrediction) -> IrisPrediction:
    """Insert and commit one row, and return it with its ``id`` and ``created_at``."""
    session.add(prediction)
    await session.commit()
    return prediction


@translates_failures
async def create_predictions(
    session: AsyncSession, predictions: Sequence[IrisPrediction]
) -> Sequence[IrisPrediction]:
    """Insert and commit many rows in one transaction, all or none; ids ascend in their order."""
    session.add_all(predictions)
    await session.commit()
    return predictions


@translates_failures
async def get_prediction(session: AsyncSession, prediction_id: int) -> IrisPrediction | None:
    """The row with this id, or None."""
    return await session.get(IrisPrediction, prediction_id)


@translates_failures
async def list_predictions(
    session: AsyncSession,
    filters: PredictionFilters | None = None,
    *,
    limit: int = 50,
    skip: int = 0,
    after: Cursor | None = None,
) -> Page:
    """One page of the history, newest first.

    ``after`` starts behind that row, at the same cost at any depth; ``skip`` counts rows off, and
    costs as much as it skips.
    """
    statement = _newest_first(filters or PredictionFilters())
    if after is not None:
        position = tuple_(IrisPrediction.created_at, IrisPrediction.id)
        statement = statement.where(position < (after.created_at, after.id))
    rows = (await session.scalars(statement.limit(limit + 1).offset(skip))).all()
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, Cursor(items[-1].created_at, items[-1].id) if more else None)


def _newest_first(filters: PredictionFilters) -> Select[IrisPrediction]:
    statement = select(IrisPrediction).order_by(
        IrisPrediction.created_at.desc(), IrisPrediction.id.desc()
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
async def ping(session: AsyncSession) -> None:
    """Return when PostgreSQL has answered."""
    await session.execute(text("SELECT 1"))
