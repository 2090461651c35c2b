"""Every SQL statement of the service. What writes has committed when it returns.

Each function that takes a session raises `DatabaseUnavailable` or `SchemaOutdated` where PostgreSQL
cannot do its part; then nothing was written, unless the connection broke during the commit itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Self

import asyncpg
from pydantic_core import to_json
from sqlalchemy import Select, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from iris_api.database.cursor import Cursor
from iris_api.database.failures import translates_failures
from iris_api.database.models import IrisPrediction
from iris_api.database.schema import PredictionFilters
from iris_api.inference.classifier import ClassPrediction, Row


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of the history, newest first, and where the next page begins; None at the end."""

    items: Sequence[IrisPrediction]
    next_cursor: Cursor | None


class NewPrediction(NamedTuple):
    """A row to be stored, as plain values: an ORM object costs ten times as much to make."""

    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float
    prediction: int
    prediction_label: str
    probabilities: str
    """JSON text"""
    model_version: str | None

    @classmethod
    def of(cls, row: Row, answer: ClassPrediction) -> Self:
        """The row for a request's measures and the classifier's answer."""
        probabilities = to_json(answer.probabilities).decode()
        return cls(*row, answer.prediction, answer.label, probabilities, answer.model_version)


class StoredAs(NamedTuple):
    """What PostgreSQL adds to a row."""

    id: int
    created_at: datetime


_INSERT_ONE = """
    INSERT INTO iris_predictions (
        sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities, model_version)
    VALUES ($1, $2, $3, $4, $5, $6, $7::text::json, $8)
    RETURNING id, created_at
"""
_INSERT_GROUP = """
    INSERT INTO iris_predictions (
        sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities, model_version)
    SELECT
        sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities::json, model_version
    FROM unnest(
        $1::float8[], $2::float8[], $3::float8[], $4::float8[],
        $5::int[], $6::text[], $7::text[], $8::text[])
    WITH ORDINALITY AS new (
        sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities, model_version, position)
    ORDER BY position
    RETURNING id, created_at
"""
# MATERIALIZED, or PostgreSQL would look the sequence up anew for each id.
_DRAW_IDS = """
    WITH owned AS MATERIALIZED (
        SELECT pg_get_serial_sequence('iris_predictions', 'id')::regclass AS sequence)
    SELECT array_agg(nextval(sequence)), now()
    FROM owned, generate_series(1, $1)
"""


@translates_failures
async def create_prediction(session: AsyncSession, prediction: IrisPrediction) -> IrisPrediction:
    """Insert and commit one row, and return it with its ``id`` and ``created_at``."""
    session.add(prediction)
    await session.commit()
    return prediction


async def insert_group(
    connection: AsyncConnection, group: Sequence[NewPrediction]
) -> list[StoredAs]:
    """Insert and commit rows by one statement, all or none, in one round trip.

    The statement is the whole transaction, so it goes to asyncpg as it is: around it, SQLAlchemy
    would make two more round trips. Raises what asyncpg raises.
    """
    driver = await _driver(connection)
    if len(group) == 1:  # a lone row needs no arrays, which cost PostgreSQL and asyncpg 0.1 ms
        rows = await driver.fetch(_INSERT_ONE, *group[0])
    else:
        rows = await driver.fetch(_INSERT_GROUP, *map(list, zip(*group, strict=True)))
    # RETURNING promises no order, but ids are drawn in the order of the rows.
    return sorted(StoredAs(*row) for row in rows)


async def copy_rows(
    connection: AsyncConnection, rows: Iterable[NewPrediction], count: int
) -> list[StoredAs]:
    """Insert and commit ``count`` rows by COPY, all or none, faster than by an INSERT.

    COPY returns nothing, so the ids and the time are drawn before. The rows are taken one by one
    while PostgreSQL works on those before, so let them be made on the way. Raises what asyncpg
    raises.
    """
    driver = await _driver(connection)
    drawn = await driver.fetchrow(_DRAW_IDS, count)
    assert drawn is not None, "an aggregate is one row"  # noqa: S101
    ids, now = drawn
    stored = [StoredAs(number, now) for number in sorted(ids)]
    await driver.copy_records_to_table(
        IrisPrediction.__tablename__,
        records=(row + added for row, added in zip(rows, stored, strict=True)),
        columns=[*NewPrediction._fields, *StoredAs._fields],
    )
    return stored


async def _driver(connection: AsyncConnection) -> "asyncpg.Connection[asyncpg.Record]":
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection[asyncpg.Record] | None = raw.driver_connection
    assert driver is not None, "a connection that is checked out has one"  # noqa: S101
    return driver


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
