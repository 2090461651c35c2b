"""How predictions are stored: groups by one INSERT, batches by COPY. All has committed on return.

Each function raises `OutcomeUnknown` where PostgreSQL did not say whether it has committed, and
closes that connection for good; any other error means that nothing was stored. Requests that carry
a key, be it an ``Idempotency-Key`` or an API key, are `iris_api.database.keyed_writes`' matter.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, Self

from pydantic_core import to_json
from sqlalchemy import PoolProxiedConnection

from iris_api.database.api_keys import Caller
from iris_api.database.models import IrisPrediction
from iris_api.database.pool import Driver, watch_of
from iris_api.database.transactions import driver_transaction
from iris_api.inference.classifier import ClassPrediction, Row


class NewPrediction(NamedTuple):
    """A row to be stored, as plain values: an ORM object costs ten times as much to make."""

    client: str
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float
    prediction: int
    prediction_label: str
    probabilities: str
    """JSON text"""
    model_version: str | None
    idempotency_key: str | None
    """Not a column: it goes into a table of its own."""
    id_sequence: str | None
    """Not a column either: where the id is to come from, if not from the table's own sequence."""

    @classmethod
    def of(cls, caller: Caller, row: Row, answer: ClassPrediction, key: str | None = None) -> Self:
        """The row for a caller's measures and the classifier's answer."""
        return cls(
            caller.client,
            *row,
            answer.prediction,
            answer.label,
            to_json(answer.probabilities).decode(),
            answer.model_version,
            key,
            caller.id_sequence,
        )

    @property
    def row(self) -> Row:
        """The measures, in the order of the model's columns."""
        return self[1:5]


class StoredAs(NamedTuple):
    """What PostgreSQL adds to a row; for a repeated request, also what was answered then."""

    id: int
    created_at: datetime
    earlier_answer: ClassPrediction | None = None


COLUMNS = NewPrediction._fields[:-2]
COLUMN_LIST = ", ".join(COLUMNS)
ARRAYS = """unnest(
    $1::text[], $2::float8[], $3::float8[], $4::float8[], $5::float8[],
    $6::int[], $7::text[], $8::text[]::json[], $9::text[]"""

_VALUES = "$1, $2, $3, $4, $5, $6, $7, $8::text::json, $9"
_INSERT_ONE = f"""
    INSERT INTO iris_predictions ({COLUMN_LIST})
    VALUES ({_VALUES})
    RETURNING id, created_at
"""  # noqa: S608, of constants, like those below
_INSERT_ONE_WITH_ID = f"""
    INSERT INTO iris_predictions ({COLUMN_LIST}, id)
    OVERRIDING SYSTEM VALUE
    VALUES ({_VALUES}, nextval($10::text::regclass))
    RETURNING id, created_at
"""  # noqa: S608
_INSERT_GROUP = f"""
    INSERT INTO iris_predictions ({COLUMN_LIST})
    SELECT {COLUMN_LIST}
    FROM {ARRAYS}) WITH ORDINALITY AS new ({COLUMN_LIST}, position)
    ORDER BY position
    RETURNING id, created_at
"""  # noqa: S608
# MATERIALIZED, or PostgreSQL would look the sequence up anew for each id.
_DRAW_IDS = """
    WITH chosen AS MATERIALIZED (
        SELECT coalesce($2, pg_get_serial_sequence('iris_predictions', 'id'))::regclass AS sequence)
    SELECT array_agg(nextval(sequence)), now()
    FROM chosen, generate_series(1, $1)
"""


async def insert_one(connection: PoolProxiedConnection, new: NewPrediction) -> list[StoredAs]:
    """As `insert_group`, for a lone row: arrays would cost PostgreSQL and asyncpg 0.1 ms."""
    values = new[: len(COLUMNS)]
    async with driver_transaction(connection) as driver:
        if new.id_sequence is None:
            rows = await driver.fetch(_INSERT_ONE, *values)
        else:
            rows = await driver.fetch(_INSERT_ONE_WITH_ID, *values, new.id_sequence)
    return [StoredAs(*row) for row in rows]


async def insert_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[StoredAs]:
    """Insert and commit rows that have neither key nor sequence, all or none, in one round trip.

    The statement is the whole transaction, so it goes to asyncpg as it is: around it, SQLAlchemy
    would make two more round trips. Raises what asyncpg raises where PostgreSQL refuses a row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(_INSERT_GROUP, *arrays(group)[: len(COLUMNS)])
    # RETURNING promises no order, but ids are drawn in the order of the rows.
    return sorted(StoredAs(*row) for row in rows)


async def copy_rows(
    connection: PoolProxiedConnection,
    rows: Iterable[NewPrediction],
    count: int,
    id_sequence: str | None,
) -> list[StoredAs]:
    """Insert and commit ``count`` rows by COPY, all or none, faster than by an INSERT.

    COPY returns nothing, so the ids and the time are drawn before. The rows are taken one by one
    while PostgreSQL works on those before, so let them be made on the way. Raises what asyncpg
    raises where PostgreSQL refuses a row.
    """
    async with batch_transaction(connection) as driver:
        stored = await draw_ids(driver, count, id_sequence)
        await copy(driver, rows, stored)
    return stored


@asynccontextmanager
async def batch_transaction(connection: PoolProxiedConnection) -> AsyncIterator[Driver]:
    """A transaction for COPY, of which nothing is stored unless its COMMIT was sent.

    It has a bound of its own, for asyncpg's does not end a COPY that the network does not take.
    """
    async with driver_transaction(connection, explicit=True) as driver:
        async with asyncio.timeout(watch_of(connection).seconds):
            yield driver


async def draw_ids(driver: Driver, count: int, id_sequence: str | None) -> list[StoredAs]:
    """Ids that nobody else gets, ascending, and the transaction's time."""
    drawn = await driver.fetchrow(_DRAW_IDS, count, id_sequence)
    assert drawn is not None, "an aggregate is one row"  # noqa: S101
    ids, now = drawn
    return [StoredAs(number, now) for number in sorted(ids)]


async def copy(driver: Driver, rows: Iterable[NewPrediction], stored: Sequence[StoredAs]) -> None:
    """Send the rows by COPY, each with the id and the time that were drawn for it."""
    await driver.copy_records_to_table(
        IrisPrediction.__tablename__,
        records=(row[: len(COLUMNS)] + added[:2] for row, added in zip(rows, stored, strict=True)),
        columns=[*COLUMNS, "id", "created_at"],
    )


def arrays(group: Sequence[NewPrediction]) -> list[list[Any]]:
    """The rows as an array for each field."""
    return [list(values) for values in zip(*group, strict=True)]
