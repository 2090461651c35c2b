"""Stores predictions and commits them: a group by one INSERT, a batch by COPY.

What PostgreSQL stored is compared with what was sent, before the commit. A trigger, a rule or a
row-level security policy may have dropped or changed rows; then nothing is stored.

Each function raises `OutcomeUnknown` where PostgreSQL did not say whether it committed, and closes
that connection. Any other error means that nothing was stored; `is_unknown_name` tells one that
`iris_api.database.names` can mend. `iris_api.recording.idempotent` stores rows with an
``Idempotency-Key``.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from sqlalchemy import PoolProxiedConnection

from iris_api.database.models import IrisPrediction
from iris_api.database.pool import Driver, guard_of
from iris_api.database.transactions import driver_transaction
from iris_api.errors import NotStored
from iris_api.iris import ClassPrediction
from iris_api.recording.rows import NewBatch, NewPrediction, StoredPrediction
from iris_api.recording.statements import (
    ARRAYS,
    COLUMNS,
    PARAMETER_LIST,
    VALUES,
    arrays,
    insert_statement,
    new_rows,
    parameter,
    values,
    values_of,
)


class Drawn(NamedTuple):
    """What is known of rows before COPY sends them."""

    predictions: list[StoredPrediction]
    client_id: int
    model_id: int
    has_triggers: bool
    """Whether a trigger may change the rows before they are stored."""


class UnknownNameError(Exception):
    """The client or the ML model of a row is not in its table yet; nothing was stored."""


INSERT_ONE = insert_statement(f"(VALUES ({VALUES})) AS given ({PARAMETER_LIST})")
"""Stores one row, of `values`."""
_INSERT_GROUP = insert_statement(
    f"unnest({ARRAYS}) WITH ORDINALITY AS given ({PARAMETER_LIST}, position)",
    "ORDER BY new.position",
)
_FIND_LABELS = "SELECT labels FROM models WHERE version = $1"
# COPY says how many rows it stored, not which. Only triggers can change them: FOR EACH ROW (1),
# BEFORE (2), INSERT (4); https://www.postgresql.org/docs/18/catalog-pg-trigger.html
# The empty INSERT locks the table, so that no trigger is added before the COPY. Random bits are
# drawn once, for they cost more than all else: a batch's ids count up from there, which tells its
# client nothing but its own rows.
_DRAW_IDS = """
    WITH locked AS (
        INSERT INTO iris_predictions (client_id) SELECT NULL::integer WHERE false
    ), first AS MATERIALIZED (
        SELECT uuid_send(iris_prediction_id()) AS id
    )
    SELECT ARRAY(
            SELECT encode(substring(id FOR 8) || int8send(
                ('x' || encode(substring(id FROM 9), 'hex'))::bit(64)::bigint + place), 'hex')::uuid
            FROM first, generate_series(0, $1 - 1) AS place),
        now(),
        (SELECT id FROM clients WHERE name = $2),
        CASE WHEN $3::text IS NULL THEN 1 ELSE (SELECT id FROM models WHERE version = $3) END,
        EXISTS (
            SELECT FROM pg_trigger
            WHERE tgtype & 7 = 7 AND tgenabled <> 'D' AND NOT tgisinternal AND (
                tgrelid = 'iris_predictions'::regclass OR tgrelid IN (
                    SELECT inhrelid FROM pg_inherits
                    WHERE inhparent = 'iris_predictions'::regclass)))
"""
_WITH_ID = f"unnest({ARRAYS}, {parameter(1)}::uuid[]) AS given ({PARAMETER_LIST}, sent_id)"
_COUNT_AS_SENT = f"""
    WITH new AS MATERIALIZED ({new_rows(_WITH_ID, "sent_id")})
    SELECT count(*)
    FROM new JOIN iris_predictions AS stored
        ON (stored.client_id, stored.id) = (new.client_id, new.sent_id)
    WHERE ({values_of("stored")}, created_at)
        IS NOT DISTINCT FROM ({values_of("new")}, {parameter(2)})
"""  # noqa: S608


async def require_labels(connection: PoolProxiedConnection, answer: ClassPrediction) -> None:
    """Raise `NotStored` if ``models`` has other labels for the answer's ML model than the answer.

    Stored probabilities are read back under the labels that ``models`` has, in their order.
    """
    async with driver_transaction(connection, writes=False) as driver:
        known = await driver.fetchval(_FIND_LABELS, answer.model_version)
    labels = list(answer.probabilities or ())
    if known is not None and known[: len(labels)] != labels:
        raise NotStored(f"models has other labels for the ML model {answer.model_version}.")


async def insert_one(
    connection: PoolProxiedConnection, new: NewPrediction
) -> list[StoredPrediction]:
    """Insert and commit one row. Arrays as in `insert_group` would cost 0.1 ms more."""
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(INSERT_ONE, *values(new))
    return [StoredPrediction(*row) for row in rows]


async def insert_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[StoredPrediction]:
    """Insert and commit rows without a key, all or none, in one round trip.

    The statement is the whole transaction (but not for PgBouncer) and goes to asyncpg directly:
    SQLAlchemy would add two round trips. Raises asyncpg's error where PostgreSQL refuses a row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(_INSERT_GROUP, *arrays(group))
    return [StoredPrediction(*row) for row in rows]


async def copy_rows(connection: PoolProxiedConnection, batch: NewBatch) -> list[StoredPrediction]:
    """Insert and commit a batch by COPY, all or none, faster than by an INSERT.

    COPY returns no rows, so ids and time are drawn first. Raises `NotStored`, `UnknownNameError`,
    or asyncpg's error where PostgreSQL refuses a row.
    """
    async with batch_transaction(connection) as driver:
        drawn = await draw_ids(driver, batch)
        await copy(driver, batch, drawn)
    return drawn.predictions


@asynccontextmanager
async def batch_transaction(connection: PoolProxiedConnection) -> AsyncIterator[Driver]:
    """Open a transaction for COPY; nothing is stored unless its COMMIT was sent.

    It has its own timeout: asyncpg's does not end a COPY that the network does not accept.
    """
    async with driver_transaction(connection, explicit=True) as driver:
        async with asyncio.timeout(guard_of(connection).seconds):
            yield driver


async def draw_ids(driver: Driver, batch: NewBatch) -> Drawn:
    """Lock the table, look for triggers, draw ascending ids and the transaction's time.

    Raises `UnknownNameError`.
    """
    names = batch.caller.client, batch.answers[0].model_version
    drawn = await driver.fetchrow(_DRAW_IDS, len(batch.rows), *names)
    assert drawn is not None, "a SELECT without FROM is one row"  # noqa: S101
    ids, now, client_id, model_id, has_triggers = drawn
    if client_id is None or model_id is None:
        raise UnknownNameError
    predictions = [StoredPrediction(one, now) for one in ids]
    return Drawn(predictions, client_id, model_id, has_triggers)


async def copy(driver: Driver, batch: NewBatch, drawn: Drawn) -> None:
    """Send the rows by COPY, each with the id and the time that were drawn for it.

    They are read while PostgreSQL works on earlier ones. Raises `NotStored` where PostgreSQL stored
    fewer rows, or other values.
    """
    stored = drawn.predictions
    tag = await driver.copy_records_to_table(
        IrisPrediction.__tablename__,
        records=_records(batch, drawn),
        columns=[*COLUMNS, "id", "created_at"],
    )
    count = int(tag.removeprefix("COPY "))
    if count == len(stored) and drawn.has_triggers:
        sent = arrays(batch.predictions())
        ids = [row.id for row in stored]
        count = await driver.fetchval(_COUNT_AS_SENT, *sent, ids, stored[0].created_at)
    if count != len(stored):
        raise NotStored(f"PostgreSQL stored {count} of {len(stored)} rows as they were sent.")


def _records(batch: NewBatch, drawn: Drawn) -> Iterator[tuple[Any, ...]]:
    """Return the rows' values of `COLUMNS`, with id and time."""
    numbers = drawn.client_id, drawn.model_id
    for new, stored in zip(batch.predictions(), drawn.predictions, strict=True):
        answer = new.answer
        probabilities = answer.probabilities
        yield (
            *new.row,
            answer.prediction,
            answer.label,
            None if probabilities is None else list(probabilities.values()),
            new.reference,
            *numbers,
            stored.id,
            stored.created_at,
        )
