"""Stores predictions and commits them: a group by one INSERT, a batch by COPY.

What PostgreSQL stored is compared with what was sent, before the commit. A trigger, a rule or a
row-level security policy may have dropped or changed rows; then nothing is stored.

Each function raises `OutcomeUnknown` where PostgreSQL did not say whether it committed, and closes
that connection. Any other error means that nothing was stored. `iris_api.recording.idempotent`
stores rows with an ``Idempotency-Key``, and groups in which an API key has its own id sequence.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import to_json
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.dialects import postgresql

from iris_api.callers import Caller
from iris_api.database.failures import NOT_AS_SENT
from iris_api.database.models import IrisPrediction
from iris_api.database.pool import Driver, guard_of
from iris_api.database.transactions import driver_transaction
from iris_api.errors import NotStored
from iris_api.iris import FEATURE_NAMES, ClassPrediction, Row


class NewPrediction(NamedTuple):
    """A prediction to store, as plain values: an ORM object takes ten times as long to make."""

    caller: Caller
    row: Row
    answer: ClassPrediction
    idempotency_key: str | None = None


class StoredPrediction(NamedTuple):
    """What PostgreSQL adds to a row; for a repeated request, also the earlier prediction."""

    id: int
    created_at: datetime
    replayed: ClassPrediction | None = None


class Drawn(NamedTuple):
    """What is known of rows before COPY sends them."""

    predictions: list[StoredPrediction]
    has_triggers: bool
    """Whether a trigger may change the rows before they are stored."""


COLUMNS = (
    "client",
    *FEATURE_NAMES,
    "prediction",
    "prediction_label",
    "probabilities",
    "model_version",
)
"""The columns that a statement fills: parameter ``$n`` fills the nth. More parameters follow."""
COLUMN_LIST = ", ".join(COLUMNS)
_JSON = "JSON"
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_TYPES = {name: IrisPrediction.__table__.c[name].type.compile(_POSTGRESQL) for name in COLUMNS}


def values(new: NewPrediction) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` as asyncpg takes them: JSON as text."""
    answer = new.answer
    return (
        new.caller.client,
        *new.row,
        answer.prediction,
        answer.label,
        to_json(answer.probabilities).decode(),
        answer.model_version,
    )


def parameter(position: int) -> str:
    """Return the parameter ``position`` places after those of `COLUMNS`, from 1."""
    return f"${len(COLUMNS) + position}"


def _cast(number: int, name: str) -> str:
    """Return a parameter with a cast to its column's type, or to text if that is JSON."""
    return f"${number}::{'text' if _TYPES[name] == _JSON else _TYPES[name]}"


def _to_json(name: str, suffix: str = "") -> str:
    return f"::{_JSON}{suffix}" if _TYPES[name] == _JSON else ""


# Without the casts, each parameter takes its column's type in the database, which may round.
_NUMBERED = tuple(enumerate(COLUMNS, start=1))
_SENT = ", ".join(_cast(number, name) for number, name in _NUMBERED)
_VALUES = ", ".join(_cast(number, name) + _to_json(name) for number, name in _NUMBERED)
ARRAYS = ", ".join(f"{_cast(number, name)}[]{_to_json(name, '[]')}" for number, name in _NUMBERED)
"""The parameters that take the rows' `arrays`."""

FAIL = f"format('{NOT_AS_SENT}')::boolean"
"""An expression that fails when it is evaluated, with its text in the message: plain SQL has no
RAISE. ``format`` keeps PostgreSQL from evaluating it at planning time."""


def values_of(table: str) -> str:
    """Return a table's or subquery's columns to compare; JSON as text: json has no equality."""
    return ", ".join(f"{table}.{name}{'::text' * (_TYPES[name] == _JSON)}" for name in COLUMNS)


def insert_one_statement(id_value: str | None = None) -> str:
    """Return the INSERT of one row; ``id_value`` is the SQL of its id, None the table's own.

    The statement may be its own transaction, so it fails by itself if the stored row differs.
    """
    columns, values, overriding = COLUMN_LIST, _VALUES, ""
    if id_value is not None:
        columns, values = f"{columns}, id", f"{values}, {id_value}"
        overriding = "OVERRIDING SYSTEM VALUE"
    return f"""
        WITH stored AS (
            INSERT INTO iris_predictions ({columns}) {overriding}
            VALUES ({values})
            RETURNING id, created_at, {COLUMN_LIST}
        )
        SELECT id, created_at
        FROM (VALUES (now())) AS sent (at) LEFT JOIN stored ON true
        WHERE CASE
            WHEN ({values_of("stored")}, created_at) IS NOT DISTINCT FROM ({_SENT}, at) THEN true
            ELSE {FAIL} END
    """  # noqa: S608, of constants, like those below


_INSERT_ONE = insert_one_statement()
_INSERT_ONE_WITH_ID = insert_one_statement(f"nextval({parameter(1)}::text::regclass)")
# Ids ascend in the order of the positions, so stored rows are matched by the order of their ids.
_INSERT_GROUP = f"""
    WITH new AS MATERIALIZED (
        SELECT * FROM unnest({ARRAYS}) WITH ORDINALITY AS arrays ({COLUMN_LIST}, position)
    ), stored AS (
        INSERT INTO iris_predictions ({COLUMN_LIST})
        SELECT {COLUMN_LIST} FROM new ORDER BY position
        RETURNING id, created_at, {COLUMN_LIST}
    ), numbered AS (
        SELECT *, row_number() OVER (ORDER BY id) AS position FROM stored
    )
    SELECT numbered.id, numbered.created_at
    FROM new LEFT JOIN numbered USING (position)
    WHERE CASE
        WHEN ({values_of("numbered")}, created_at) IS NOT DISTINCT FROM ({values_of("new")}, now())
        THEN true ELSE {FAIL} END
    ORDER BY position
"""  # noqa: S608
# COPY says how many rows it stored, not which. Only triggers can change them: FOR EACH ROW (1),
# BEFORE (2), INSERT (4); https://www.postgresql.org/docs/18/catalog-pg-trigger.html
# The empty INSERT locks the table, so that no trigger is added before the COPY. Without
# MATERIALIZED, PostgreSQL would look up the sequence for each id.
_DRAW_IDS = """
    WITH locked AS (
        INSERT INTO iris_predictions (client) SELECT NULL WHERE false
    ), chosen AS MATERIALIZED (
        SELECT coalesce($2, pg_get_serial_sequence('iris_predictions', 'id'))::regclass AS sequence
    )
    SELECT array_agg(nextval(sequence)), now(), EXISTS (
        SELECT FROM pg_trigger
        WHERE tgtype & 7 = 7 AND tgenabled <> 'D' AND NOT tgisinternal AND (
            tgrelid = 'iris_predictions'::regclass OR tgrelid IN (
                SELECT inhrelid FROM pg_inherits WHERE inhparent = 'iris_predictions'::regclass)))
    FROM chosen, generate_series(1, $1)
"""
_COUNT_AS_SENT = f"""
    SELECT count(*)
    FROM unnest({ARRAYS}, {parameter(1)}::bigint[]) AS new ({COLUMN_LIST}, id)
    JOIN iris_predictions AS stored USING (id)
    WHERE ({values_of("stored")}, created_at)
        IS NOT DISTINCT FROM ({values_of("new")}, {parameter(2)})
"""  # noqa: S608


async def insert_one(
    connection: PoolProxiedConnection, new: NewPrediction
) -> list[StoredPrediction]:
    """Insert and commit one row. Arrays as in `insert_group` would cost 0.1 ms more."""
    sequence = new.caller.id_sequence
    async with driver_transaction(connection) as driver:
        if sequence is None:
            rows = await driver.fetch(_INSERT_ONE, *values(new))
        else:
            rows = await driver.fetch(_INSERT_ONE_WITH_ID, *values(new), sequence)
    return [StoredPrediction(*row) for row in rows]


async def insert_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[StoredPrediction]:
    """Insert and commit rows without key and id sequence, all or none, in one round trip.

    The statement is the whole transaction (but not for PgBouncer) and goes to asyncpg directly:
    SQLAlchemy would add two round trips. Raises asyncpg's error where PostgreSQL refuses a row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(_INSERT_GROUP, *arrays(group))
    return [StoredPrediction(*row) for row in rows]


async def copy_rows(
    connection: PoolProxiedConnection,
    rows: Callable[[], Iterable[NewPrediction]],
    count: int,
    id_sequence: str | None,
) -> list[StoredPrediction]:
    """Insert and commit ``count`` rows by COPY, all or none, faster than by an INSERT.

    COPY returns no rows, so ids and time are drawn first. ``rows`` should return a generator: it
    is read while PostgreSQL works on earlier rows. Raises `NotStored`, or asyncpg's error where
    PostgreSQL refuses a row.
    """
    async with batch_transaction(connection) as driver:
        drawn = await draw_ids(driver, count, id_sequence)
        await copy(driver, rows, drawn)
    return drawn.predictions


@asynccontextmanager
async def batch_transaction(connection: PoolProxiedConnection) -> AsyncIterator[Driver]:
    """Open a transaction for COPY; nothing is stored unless its COMMIT was sent.

    It has its own timeout: asyncpg's does not end a COPY that the network does not accept.
    """
    async with driver_transaction(connection, explicit=True) as driver:
        async with asyncio.timeout(guard_of(connection).seconds):
            yield driver


async def draw_ids(driver: Driver, count: int, id_sequence: str | None) -> Drawn:
    """Lock the table, look for triggers, draw ascending ids and the transaction's time."""
    drawn = await driver.fetchrow(_DRAW_IDS, count, id_sequence)
    assert drawn is not None, "an aggregate is one row"  # noqa: S101
    ids, now, has_triggers = drawn
    return Drawn([StoredPrediction(number, now) for number in sorted(ids)], has_triggers)


async def copy(driver: Driver, rows: Callable[[], Iterable[NewPrediction]], drawn: Drawn) -> None:
    """Send the rows by COPY, each with the id and the time that were drawn for it.

    Raises `NotStored` where PostgreSQL stored fewer rows, or other values.
    """
    stored = drawn.predictions
    tag = await driver.copy_records_to_table(
        IrisPrediction.__tablename__,
        records=(values(row) + added[:2] for row, added in zip(rows(), stored, strict=True)),
        columns=[*COLUMNS, "id", "created_at"],
    )
    count = int(tag.removeprefix("COPY "))
    if count == len(stored) and drawn.has_triggers:
        sent = arrays(rows())
        ids = [row.id for row in stored]
        count = await driver.fetchval(_COUNT_AS_SENT, *sent, ids, stored[0].created_at)
    if count != len(stored):
        raise NotStored(f"PostgreSQL stored {count} of {len(stored)} rows as they were sent.")


def arrays(group: Iterable[NewPrediction]) -> list[list[Any]]:
    """Return the rows' values as one array for each of `COLUMNS`."""
    return [list(column) for column in zip(*map(values, group), strict=True)]
