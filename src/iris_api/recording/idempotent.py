"""Stores predictions once for each ``Idempotency-Key``.

The transaction that stores the rows also claims the Idempotency-Key. A batch claims it last: a
second request with the same key waits from the claim until the transaction ends. Failures are as
in `iris_api.recording.inserts`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from sqlalchemy import PoolProxiedConnection

from iris_api.batching import CancelledWhileStoring
from iris_api.database.advice import advice_on
from iris_api.database.models import IdempotencyKey, by_label
from iris_api.database.pool import Driver
from iris_api.database.transactions import driver_transaction
from iris_api.errors import (
    DatabaseUnavailable,
    IdempotencyKeyReused,
    NotStored,
    OutcomeUnknown,
)
from iris_api.iris import ClassPrediction, Row
from iris_api.recording.inserts import (
    batch_transaction,
    copy,
    draw_ids,
    insert_group,
    insert_one,
)
from iris_api.recording.rows import NewBatch, NewPrediction, StoredPrediction
from iris_api.recording.statements import (
    ARRAYS,
    AS_SENT,
    FAIL,
    PARAMETER_LIST,
    arrays,
    insert_of,
    new_rows,
    parameter,
    values_of,
)

Outcome: TypeAlias = StoredPrediction | DatabaseUnavailable | IdempotencyKeyReused | OutcomeUnknown


class Sent(NamedTuple):
    """What a client sends of a row."""

    row: Row
    reference: str | None


class _KeyRecord(NamedTuple):
    """The rows that `/predict` or a batch stored under one key; None for a deleted row."""

    is_batch: bool
    rows: list[tuple[Sent, StoredPrediction] | None]


class _KeyTakenError(Exception):
    """Another transaction has claimed the key, so this one is rolled back."""


# Stores each row that has no key or a new one. PostgreSQL decides which transaction is first: the
# INSERT waits for a key that another transaction is storing. All groups claim their keys in one
# order (client, key), so two groups cannot deadlock.
_GIVEN = f"""
    unnest({ARRAYS}, {parameter(1)}::text[])
    WITH ORDINALITY AS given ({PARAMETER_LIST}, key, position)
"""
_INSERT_KEYED_GROUP = f"""
    WITH new AS MATERIALIZED (
        {new_rows(_GIVEN, "client", "key", "position")}
    ), claimed AS (
        INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
        SELECT client, key, false, ARRAY[id] FROM new WHERE key IS NOT NULL ORDER BY client, key
        ON CONFLICT DO NOTHING
        RETURNING client, key, is_batch, prediction_ids
    ), changed AS MATERIALIZED (
        TABLE claimed
        EXCEPT ALL
        SELECT client, key, false, ARRAY[id] FROM new
    ), owing AS MATERIALIZED (
        SELECT * FROM new WHERE key IS NULL OR id IN (SELECT prediction_ids[1] FROM claimed)
    ), stored AS ({insert_of("owing")})
    SELECT stored.id, stored.created_at
    FROM new LEFT JOIN owing USING (id) LEFT JOIN stored USING (id)
    WHERE CASE
        WHEN EXISTS (TABLE changed) THEN {FAIL}
        WHEN owing.id IS NULL THEN true
        WHEN ({values_of("stored")}, created_at) IS NOT DISTINCT FROM ({values_of("new")}, now())
        THEN true ELSE {FAIL} END
    ORDER BY new.position
"""  # noqa: S608
# FOR KEY SHARE makes this a writing transaction, so its commit waits for the disk and for
# synchronous standbys. A restart may have kept the commit that stored the rows from waiting.
FIND_KEYED = f"""
    SELECT asked.position, known.is_batch, stored.id, stored.created_at, models.version,
        models.labels, {values_of("stored")}
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (client, key, position)
    JOIN idempotency_keys AS known USING (client, key)
    CROSS JOIN unnest(CASE WHEN known.is_batch = $3 THEN prediction_ids ELSE prediction_ids[:1] END)
        WITH ORDINALITY AS kept (id, place)
    LEFT JOIN clients ON clients.name = known.client
    LEFT JOIN iris_predictions AS stored ON (stored.client_id, stored.id) = (clients.id, kept.id)
    LEFT JOIN models ON models.id = stored.model_id
    ORDER BY asked.position, kept.place
    FOR KEY SHARE OF known
"""  # noqa: S608
_LOCK_FAILURES = ("55P03", "57014", "40P01")  # lock timeout, statement timeout, deadlock
CLAIM_BATCH = """
    INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
    VALUES ($1, $2, true, $3)
    ON CONFLICT DO NOTHING
    RETURNING (client, key, is_batch, prediction_ids) IS NOT DISTINCT FROM ($1, $2, true, $3)
"""


def problem_of_key(error: Exception) -> OutcomeUnknown | None:
    """Return the problem of all rows with a key if a lock on a key caused the error; else None.

    If another transaction holds the ``Idempotency-Key`` for too long, the outcome is unknown: that
    transaction is probably storing the row.
    """
    if not isinstance(error, asyncpg.PostgresError) or error.sqlstate not in _LOCK_FAILURES:
        return None
    if IdempotencyKey.__tablename__ not in (error.context or ""):
        return None
    return OutcomeUnknown("An earlier request with this key may still be at work.")


async def insert_by_cheapest(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> Sequence[Outcome]:
    """Insert and commit a group, all or none, by the cheapest statement that can store it."""
    if any(row.idempotency_key is not None for row in group):
        return await insert_keyed_group(connection, group)
    if len(group) == 1:
        return await insert_one(connection, group[0])
    return await insert_group(connection, group)


async def insert_keyed_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[Outcome]:
    """Insert and commit the rows that have a new key or none, in one round trip.

    A row whose key its client has used before is not stored again: it gets the earlier prediction,
    or a problem such as `IdempotencyKeyReused`. Raises asyncpg's error where PostgreSQL refuses a
    row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(
            _INSERT_KEYED_GROUP,
            *arrays(group),
            [new.idempotency_key for new in group],
        )
    repeated = [new for new, row in zip(group, rows, strict=True) if row["id"] is None]
    outcomes = iter(await _find_repeated(connection, repeated) if repeated else ())
    return [StoredPrediction(*row) if row["id"] is not None else next(outcomes) for row in rows]


async def _find_repeated(
    connection: PoolProxiedConnection, repeated: Sequence[NewPrediction]
) -> list[Outcome]:
    """Return what was stored for these keys, or a problem; the other rows are committed."""
    keys = [(new.caller.client, str(new.idempotency_key)) for new in repeated]
    try:
        found = await _find(connection, keys, is_batch=False)
    except OutcomeUnknown as problem:
        return [problem] * len(repeated)
    outcomes: list[Outcome] = []
    for new, kept in zip(repeated, found, strict=True):
        try:
            asked = [Sent(new.row, new.reference)]
            outcomes += _require_same(kept, asked, is_batch=False)
        except (DatabaseUnavailable, IdempotencyKeyReused) as problem:
            outcomes.append(problem)
    return outcomes


async def copy_rows_once(
    connection: PoolProxiedConnection, batch: NewBatch, key: str
) -> list[StoredPrediction]:
    """Insert and commit a batch by COPY, or return what its client stored under this key before.

    Raises `IdempotencyKeyReused` where that is another payload, or was deleted, and the problems
    of `iris_api.recording.inserts.copy_rows`.
    """
    client = batch.caller.client
    [kept] = await _find(connection, [(client, key)], is_batch=True)
    if kept is None:
        try:
            async with batch_transaction(connection) as driver:
                drawn = await draw_ids(driver, batch)
                await copy(driver, batch, drawn)
                await _claim(driver, client, key, drawn.predictions)
        except _KeyTakenError:
            [kept] = await _find(connection, [(client, key)], is_batch=True)
        else:
            return drawn.predictions
    asked = [Sent(*pair) for pair in zip(batch.rows, batch.references, strict=True)]
    return _require_same(kept, asked, is_batch=True)


async def _claim(driver: Driver, client: str, key: str, stored: Sequence[StoredPrediction]) -> None:
    """Claim the key. Raises `_KeyTakenError`, or `NotStored` if PostgreSQL changed its row."""
    is_as_sent = await driver.fetchval(CLAIM_BATCH, client, key, [row.id for row in stored])
    if is_as_sent is None:
        raise _KeyTakenError
    if not is_as_sent:
        raise NotStored("PostgreSQL changed the Idempotency-Key.")


async def _find(
    connection: PoolProxiedConnection, keys: Sequence[tuple[str, str]], *, is_batch: bool
) -> list[_KeyRecord | None]:
    """Return the record of each pair of client and key, or None.

    A record whose ``is_batch`` differs has only its first row. Raises `OutcomeUnknown` on every
    error of the query: the rows under the key may be those of this request.
    """
    clients, names = map(list, zip(*keys, strict=True))
    try:
        async with driver_transaction(connection) as driver:
            rows = await driver.fetch(FIND_KEYED, clients, names, is_batch)
    except asyncio.CancelledError as error:
        raise CancelledWhileStoring from error
    except OutcomeUnknown:
        raise
    except Exception as error:
        reason = advice_on(error) or "PostgreSQL did not say what the key had stored."
        raise OutcomeUnknown(reason) from error
    found: list[_KeyRecord | None] = [None] * len(keys)
    for position, was_batch, *row in rows:
        kept = found[position - 1] or _KeyRecord(was_batch, [])
        kept.rows.append(_kept_row(row))
        found[position - 1] = kept
    return found


def _kept_row(row: Sequence[Any]) -> tuple[Sent, StoredPrediction] | None:
    """Return the stored row and its prediction; None if they were deleted since."""
    if row[0] is None:
        return None
    prediction_id, created_at, model_version, labels, *stored = row
    *features, prediction, label, probabilities, reference = stored[: len(AS_SENT)]
    answer = ClassPrediction(
        prediction, label, by_label(labels or (), probabilities), model_version
    )
    sent = Sent(tuple(features), reference)
    return sent, StoredPrediction(prediction_id, created_at, answer)


def _require_same(
    kept: _KeyRecord | None, asked: Sequence[Sent], *, is_batch: bool
) -> list[StoredPrediction]:
    """Return the predictions stored under a key that was claimed before.

    Raises `IdempotencyKeyReused` where the payload differs or a row was deleted since, and
    `DatabaseUnavailable` where PostgreSQL has no such key after all.
    """
    if kept is None:
        raise DatabaseUnavailable(
            "PostgreSQL took no note of this Idempotency-Key. Nothing was stored. Try again soon; "
            "if that does not help, the operators have to look at the triggers, rules and "
            "row-level security policies of idempotency_keys."
        )
    rows = [row for row in kept.rows if row is not None]
    if len(rows) < len(kept.rows):
        raise IdempotencyKeyReused(
            "What was stored under this key has been deleted since. Send the request with a new "
            "key to have it stored again."
        )
    if kept.is_batch != is_batch or [sent for sent, _ in rows] != list(asked):
        raise IdempotencyKeyReused(
            "This key came with another payload before. Send the same payload again, or a new key."
        )
    return [stored for _, stored in rows]
