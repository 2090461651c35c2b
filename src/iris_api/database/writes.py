"""How predictions are stored: groups by one INSERT, batches by COPY. All has committed on return.

Each function raises `OutcomeUnknown` where PostgreSQL did not say whether it has committed, and
closes that connection for good; any other error means that nothing was stored.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple, Self, TypeAlias, cast

import asyncpg
from pydantic_core import from_json, to_json
from sqlalchemy.ext.asyncio import AsyncConnection

from iris_api.database.failures import is_outcome_unknown
from iris_api.database.models import IrisPrediction
from iris_api.database.session import EXPLICIT_TRANSACTIONS
from iris_api.errors import IdempotencyKeyReused, OutcomeUnknown
from iris_api.inference.classifier import ClassPrediction, Row

Driver: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class CancelledWhileStoring(asyncio.CancelledError):
    """The caller was cancelled when PostgreSQL had begun, so nobody can say what was stored."""


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

    @classmethod
    def of(cls, client: str, row: Row, answer: ClassPrediction, key: str | None = None) -> Self:
        """The row for a client's measures and the classifier's answer."""
        probabilities = to_json(answer.probabilities).decode()
        return cls(
            client, *row, answer.prediction, answer.label, probabilities, answer.model_version, key
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


_COLUMNS = NewPrediction._fields[:-1]
_COLUMN_LIST = ", ".join(_COLUMNS)
_ARRAYS = """unnest(
    $1::text[], $2::float8[], $3::float8[], $4::float8[], $5::float8[],
    $6::int[], $7::text[], $8::text[]::json[], $9::text[]"""

_INSERT_ONE = f"""
    INSERT INTO iris_predictions ({_COLUMN_LIST})
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9)
    RETURNING id, created_at
"""  # noqa: S608, of constants, like those below
_INSERT_GROUP = f"""
    INSERT INTO iris_predictions ({_COLUMN_LIST})
    SELECT {_COLUMN_LIST}
    FROM {_ARRAYS}) WITH ORDINALITY AS new ({_COLUMN_LIST}, position)
    ORDER BY position
    RETURNING id, created_at
"""  # noqa: S608
# A row is stored where it has no key, or where its key is new. PostgreSQL settles who is first: a
# key that another transaction is just storing is waited for. All claim in the order of their keys,
# so two groups cannot wait for each other.
_INSERT_KEYED_GROUP = f"""
    WITH owned AS MATERIALIZED (
        SELECT pg_get_serial_sequence('iris_predictions', 'id')::regclass AS sequence
    ), new AS MATERIALIZED (
        SELECT nextval(sequence) AS id, arrays.*
        FROM owned, {_ARRAYS}, $10::text[])
        WITH ORDINALITY AS arrays ({_COLUMN_LIST}, key, position)
    ), claimed AS (
        INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
        SELECT client, key, false, ARRAY[id] FROM new WHERE key IS NOT NULL ORDER BY client, key
        ON CONFLICT DO NOTHING
        RETURNING prediction_ids[1] AS id
    ), stored AS (
        INSERT INTO iris_predictions (id, {_COLUMN_LIST})
        OVERRIDING SYSTEM VALUE
        SELECT id, {_COLUMN_LIST} FROM new
        WHERE key IS NULL OR id IN (SELECT id FROM claimed)
        ORDER BY position
        RETURNING id, created_at
    )
    SELECT stored.id, stored.created_at
    FROM new LEFT JOIN stored USING (id)
    ORDER BY position
"""  # noqa: S608
_FIND_KEYED = """
    SELECT
        asked.position, stored.id, stored.created_at,
        stored.sepal_length, stored.sepal_width, stored.petal_length, stored.petal_width,
        stored.prediction, stored.prediction_label, stored.probabilities::text,
        stored.model_version
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (client, key, position)
    JOIN idempotency_keys USING (client, key)
    CROSS JOIN unnest(prediction_ids) WITH ORDINALITY AS kept (id, place)
    JOIN iris_predictions AS stored ON stored.id = kept.id
    WHERE is_batch = $3
    ORDER BY asked.position, kept.place
"""
_CLAIM_BATCH = """
    INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
    VALUES ($1, $2, true, $3)
    ON CONFLICT DO NOTHING
    RETURNING true
"""
# MATERIALIZED, or PostgreSQL would look the sequence up anew for each id.
_DRAW_IDS = """
    WITH owned AS MATERIALIZED (
        SELECT pg_get_serial_sequence('iris_predictions', 'id')::regclass AS sequence)
    SELECT array_agg(nextval(sequence)), now()
    FROM owned, generate_series(1, $1)
"""


async def insert_group(
    connection: AsyncConnection, group: Sequence[NewPrediction]
) -> list[StoredAs | Exception]:
    """Insert and commit rows, all or none, in one round trip.

    The statement is the whole transaction, so it goes to asyncpg as it is: around it, SQLAlchemy
    would make two more round trips. A row whose ``idempotency_key`` its client has used before is
    not stored again: it gets what was stored then, or `IdempotencyKeyReused`. Raises what asyncpg
    raises where PostgreSQL refuses a row.
    """
    if any(row.idempotency_key is not None for row in group):
        return await _insert_keyed_group(connection, group)
    async with _transaction(connection) as driver:
        if len(group) == 1:  # a lone row needs no arrays, which cost PostgreSQL and asyncpg 0.1 ms
            rows = await driver.fetch(_INSERT_ONE, *group[0][:-1])
        else:
            rows = await driver.fetch(_INSERT_GROUP, *_arrays(group)[:-1])
    # RETURNING promises no order, but ids are drawn in the order of the rows.
    return [*sorted(StoredAs(*row) for row in rows)]


async def _insert_keyed_group(
    connection: AsyncConnection, group: Sequence[NewPrediction]
) -> list[StoredAs | Exception]:
    async with _transaction(connection) as driver:
        rows = await driver.fetch(_INSERT_KEYED_GROUP, *_arrays(group))
    repeated = [new for new, row in zip(group, rows, strict=True) if row["id"] is None]
    outcomes = iter(await _find_repeated(connection, repeated) if repeated else ())
    return [StoredAs(*row) if row["id"] is not None else next(outcomes) for row in rows]


async def _find_repeated(
    connection: AsyncConnection, repeated: Sequence[NewPrediction]
) -> list[StoredAs | Exception]:
    """What was stored for these keys, or why nobody can say; the others' rows are committed."""
    keys = [(new.client, str(new.idempotency_key)) for new in repeated]
    try:
        found = await _find_keyed(connection, keys, is_batch=False)
    except OutcomeUnknown as problem:
        return [problem] * len(repeated)
    outcomes: list[StoredAs | Exception] = []
    for new, rows in zip(repeated, found, strict=True):
        try:
            outcomes += _require_same([new.row], rows)
        except IdempotencyKeyReused as problem:
            outcomes.append(problem)
    return outcomes


async def copy_rows(
    connection: AsyncConnection, rows: Iterable[NewPrediction], count: int
) -> list[StoredAs]:
    """Insert and commit ``count`` rows by COPY, all or none, faster than by an INSERT.

    COPY returns nothing, so the ids and the time are drawn before. The rows are taken one by one
    while PostgreSQL works on those before, so let them be made on the way. Raises what asyncpg
    raises where PostgreSQL refuses a row.
    """
    async with _transaction(connection) as driver:
        stored = await _draw(driver, count)
        await _copy(driver, rows, stored)
    return stored


async def copy_rows_once(
    connection: AsyncConnection,
    rows: Iterable[NewPrediction],
    asked: Sequence[Row],
    client: str,
    key: str,
) -> list[StoredAs]:
    """Do as `copy_rows`, or where the client has used the key before, return what it stored then.

    Raises `IdempotencyKeyReused` where those were not the rows ``asked`` for.
    """
    async with _transaction(connection, explicit=True) as driver:
        stored = await _draw(driver, len(asked))
        is_new = await driver.fetchval(_CLAIM_BATCH, client, key, [row.id for row in stored])
        if is_new:
            await _copy(driver, rows, stored)
    if is_new:
        return stored
    [found] = await _find_keyed(connection, [(client, key)], is_batch=True)
    return _require_same(asked, found)


async def _draw(driver: Driver, count: int) -> list[StoredAs]:
    drawn = await driver.fetchrow(_DRAW_IDS, count)
    assert drawn is not None, "an aggregate is one row"  # noqa: S101
    ids, now = drawn
    return [StoredAs(number, now) for number in sorted(ids)]


async def _copy(driver: Driver, rows: Iterable[NewPrediction], stored: Sequence[StoredAs]) -> None:
    await driver.copy_records_to_table(
        IrisPrediction.__tablename__,
        records=(row[:-1] + added[:2] for row, added in zip(rows, stored, strict=True)),
        columns=[*_COLUMNS, "id", "created_at"],
    )


_Kept: TypeAlias = tuple[Row, StoredAs]


async def _find_keyed(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]], *, is_batch: bool
) -> list[list[_Kept]]:
    """For each pair of client and key, the rows that it stored: none where its kind was another.

    Raises `OutcomeUnknown` where PostgreSQL does not say: the key is known, so there are rows.
    """
    clients, names = map(list, zip(*keys, strict=True))
    try:
        async with _transaction(connection) as driver:
            rows = await driver.fetch(_FIND_KEYED, clients, names, is_batch)
    except asyncpg.PostgresError as error:
        raise OutcomeUnknown("PostgreSQL did not find what the key had stored.") from error
    found: list[list[_Kept]] = [[] for _ in keys]
    for position, *row in rows:
        found[position - 1].append(_kept(row))
    return found


def _kept(row: Sequence[Any]) -> _Kept:
    number, created_at, *measures, prediction, label, probabilities, model_version = row
    by_label = None if probabilities is None else from_json(probabilities)
    answer = ClassPrediction(prediction, label, by_label, model_version)
    return tuple(measures), StoredAs(number, created_at, answer)


def _require_same(asked: Sequence[Row], found: Sequence[_Kept]) -> list[StoredAs]:
    """What was stored. Raises `IdempotencyKeyReused` where it was not for what is asked now."""
    if [row for row, _ in found] != list(asked):
        raise IdempotencyKeyReused(
            "This key came with another payload before. Send the same payload again, or a new key."
        )
    return [stored for _, stored in found]


def _arrays(group: Sequence[NewPrediction]) -> list[list[Any]]:
    """The rows as an array for each field."""
    return [list(values) for values in zip(*group, strict=True)]


@asynccontextmanager
async def _transaction(
    connection: AsyncConnection, *, explicit: bool = False
) -> AsyncIterator[Driver]:
    """The driver's connection; in a transaction where ``explicit``, or where PgBouncer wants it.

    Otherwise each statement is a transaction.
    """
    assert connection.sync_connection, "it is checked out"  # noqa: S101
    driver = cast(Driver, connection.sync_connection.connection.driver_connection)
    options = connection.sync_engine.get_execution_options()
    transaction = driver.transaction() if explicit or options.get(EXPLICIT_TRANSACTIONS) else None
    may_commit = transaction is None
    try:
        if transaction:
            await transaction.start()
        yield driver
        may_commit = True
        if transaction:
            await transaction.commit()
    except Exception as error:
        if is_outcome_unknown(error):
            driver.terminate()
            if may_commit:
                raise OutcomeUnknown("PostgreSQL broke off, or did not answer in time.") from error
        elif transaction and driver.is_in_transaction():
            await transaction.rollback()
        raise
    except asyncio.CancelledError as error:  # PostgreSQL is in the middle of something
        driver.terminate()
        if may_commit:
            raise CancelledWhileStoring from error
        raise
