"""How predictions are stored once for each ``Idempotency-Key``, and with ids of the caller's own.

The key is claimed in the very transaction that stores its rows, and as its last act where that one
takes long, for who comes with the same key waits until it ends. Failures are as in
`iris_api.recording.inserts`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from pydantic_core import from_json
from sqlalchemy import PoolProxiedConnection

from iris_api.auth.api_keys import sequence_at_fault
from iris_api.batching import CancelledWhileStoring
from iris_api.callers import Caller
from iris_api.database.failures import advice_on
from iris_api.database.models import IdempotencyKey
from iris_api.database.pool import Driver
from iris_api.database.transactions import driver_transaction
from iris_api.errors import (
    DatabaseUnavailable,
    IdempotencyKeyReused,
    NotStored,
    OutcomeUnknown,
    Problem,
)
from iris_api.iris import ClassPrediction, Row
from iris_api.recording.inserts import (
    ARRAYS,
    COLUMN_LIST,
    FAIL,
    NewPrediction,
    StoredPrediction,
    arrays,
    batch_transaction,
    copy,
    draw_ids,
    parameter,
    values_of,
)

Outcome: TypeAlias = StoredPrediction | DatabaseUnavailable | IdempotencyKeyReused | OutcomeUnknown


class _KeyRecord(NamedTuple):
    """What a key stands for: the rows that were stored under it, by `/predict` or as a batch."""

    is_batch: bool
    rows: list[tuple[Row, StoredPrediction] | None]


class KeyFailure(NamedTuple):
    """The rows that PostgreSQL refuses for their keys' sake, and what their callers are told."""

    problem: Problem
    affects: Callable[[NewPrediction], bool]


class _KeyTakenError(Exception):
    """Another transaction has claimed the key meanwhile, so this one is rolled back."""


# A row is stored where it has no key, or where its key is new. PostgreSQL settles who is first: a
# key that another transaction is just storing is waited for. All claim in the order of their keys,
# so two groups cannot wait for each other.
_INSERT_KEYED_GROUP = f"""
    WITH owned AS MATERIALIZED (
        SELECT pg_get_serial_sequence('iris_predictions', 'id')::regclass AS sequence
    ), new AS MATERIALIZED (
        SELECT nextval(coalesce(id_sequence::regclass, sequence)) AS id, arrays.*
        FROM owned, unnest({ARRAYS}, {parameter(1)}::text[], {parameter(2)}::text[])
        WITH ORDINALITY AS arrays ({COLUMN_LIST}, key, id_sequence, position)
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
    ), stored AS (
        INSERT INTO iris_predictions (id, {COLUMN_LIST})
        OVERRIDING SYSTEM VALUE
        SELECT id, {COLUMN_LIST} FROM owing ORDER BY position
        RETURNING id, created_at, {COLUMN_LIST}
    )
    SELECT stored.id, stored.created_at
    FROM new LEFT JOIN owing USING (id) LEFT JOIN stored USING (id)
    WHERE CASE
        WHEN EXISTS (TABLE changed) THEN {FAIL}
        WHEN owing.id IS NULL THEN true
        WHEN ({values_of("stored")}, created_at) IS NOT DISTINCT FROM ({values_of("new")}, now())
        THEN true ELSE {FAIL} END
    ORDER BY new.position
"""  # noqa: S608
# To lock the keys makes it a transaction that writes, so that its commit waits for the disk and for
# synchronous standbys: the commit that stored the rows may have been kept from it, by a restart.
FIND_KEYED = f"""
    SELECT asked.position, known.is_batch, stored.id, stored.created_at, {values_of("stored")}
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS asked (client, key, position)
    JOIN idempotency_keys AS known USING (client, key)
    CROSS JOIN unnest(CASE WHEN known.is_batch = $3 THEN prediction_ids ELSE prediction_ids[:1] END)
        WITH ORDINALITY AS kept (id, place)
    LEFT JOIN iris_predictions AS stored ON stored.id = kept.id
    ORDER BY asked.position, kept.place
    FOR KEY SHARE OF known
"""  # noqa: S608
_WAITED_IN_VAIN = ("55P03", "57014", "40P01")  # for a lock; for too long; for one another
CLAIM_BATCH = """
    INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
    VALUES ($1, $2, true, $3)
    ON CONFLICT DO NOTHING
    RETURNING (client, key, is_batch, prediction_ids) IS NOT DISTINCT FROM ($1, $2, true, $3)
"""


def find_key_failure(error: Exception) -> KeyFailure | None:
    """Whose keys a refusal of PostgreSQL's is about; None where it is about no key.

    An ``Idempotency-Key`` that another transaction did not let go in time is storing its row there,
    as likely as not, so it is not known whether that is stored.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return None
    sequence = sequence_at_fault(error)
    if sequence is not None:
        detail = f"The ids of this API key, of {sequence}, cannot be drawn. Nothing was stored. "
        advice = "Let the service's role use that sequence, or make another key."
        problem = DatabaseUnavailable(detail + advice)
        return KeyFailure(problem, lambda new: new.caller.id_sequence == sequence)
    if error.sqlstate in _WAITED_IN_VAIN and IdempotencyKey.__tablename__ in (error.context or ""):
        unknown = OutcomeUnknown("An earlier request with this key may still be at work.")
        return KeyFailure(unknown, lambda new: new.idempotency_key is not None)
    return None


async def insert_keyed_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[Outcome]:
    """Insert and commit those rows whose key is new, or that have none, in one round trip.

    A row whose key its client has used before is not stored again: it gets what was stored then, or
    `IdempotencyKeyReused`. Raises what asyncpg raises where PostgreSQL refuses a row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(
            _INSERT_KEYED_GROUP,
            *arrays(group),
            [new.idempotency_key for new in group],
            [new.caller.id_sequence for new in group],
        )
    repeated = [new for new, row in zip(group, rows, strict=True) if row["id"] is None]
    outcomes = iter(await _find_repeated(connection, repeated) if repeated else ())
    return [StoredPrediction(*row) if row["id"] is not None else next(outcomes) for row in rows]


async def _find_repeated(
    connection: PoolProxiedConnection, repeated: Sequence[NewPrediction]
) -> list[Outcome]:
    """What was stored for these keys, or why nobody can say; the others' rows are committed."""
    keys = [(new.caller.client, str(new.idempotency_key)) for new in repeated]
    try:
        found = await _find(connection, keys, is_batch=False)
    except OutcomeUnknown as problem:
        return [problem] * len(repeated)
    outcomes: list[Outcome] = []
    for new, kept in zip(repeated, found, strict=True):
        try:
            outcomes += _require_same(kept, [new.row], is_batch=False)
        except (DatabaseUnavailable, IdempotencyKeyReused) as problem:
            outcomes.append(problem)
    return outcomes


async def copy_rows_once(
    connection: PoolProxiedConnection,
    rows: Callable[[], Iterable[NewPrediction]],
    asked: Sequence[Row],
    caller: Caller,
    key: str,
) -> list[StoredPrediction]:
    """Insert and commit the rows by COPY, or return what the caller stored under this key before.

    Raises `IdempotencyKeyReused` where those were not the rows ``asked`` for, and `NotStored`.
    """
    known = [(caller.client, key)]
    [kept] = await _find(connection, known, is_batch=True)
    if kept is None:
        try:
            async with batch_transaction(connection) as driver:
                drawn = await draw_ids(driver, len(asked), caller.id_sequence)
                await copy(driver, rows, drawn)
                await _claim(driver, caller.client, key, drawn.predictions)
        except _KeyTakenError:
            [kept] = await _find(connection, known, is_batch=True)
        else:
            return drawn.predictions
    return _require_same(kept, asked, is_batch=True)


async def _claim(driver: Driver, client: str, key: str, stored: Sequence[StoredPrediction]) -> None:
    """Raises `_KeyTakenError`, and `NotStored` where PostgreSQL has changed the key's row."""
    is_as_sent = await driver.fetchval(CLAIM_BATCH, client, key, [row.id for row in stored])
    if is_as_sent is None:
        raise _KeyTakenError
    if not is_as_sent:
        raise NotStored("PostgreSQL changed the Idempotency-Key.")


async def _find(
    connection: PoolProxiedConnection, keys: Sequence[tuple[str, str]], *, is_batch: bool
) -> list[_KeyRecord | None]:
    """For each pair of client and key what it stands for, if anything; of another kind, one row.

    Raises `OutcomeUnknown` where PostgreSQL does not say, whatever kept it from saying so: what was
    stored under the key is the request's own.
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


def _kept_row(row: Sequence[Any]) -> tuple[Row, StoredPrediction] | None:
    """The row that was stored; None where it was deleted since."""
    if row[0] is None:
        return None
    number, created_at, _, *features, prediction, label, probabilities, model_version = row
    by_label = None if probabilities is None else from_json(probabilities)
    answer = ClassPrediction(prediction, label, by_label, model_version)
    return tuple(features), StoredPrediction(number, created_at, answer)


def _require_same(
    kept: _KeyRecord | None, asked: Sequence[Row], *, is_batch: bool
) -> list[StoredPrediction]:
    """What was stored under a key that could not be claimed.

    Raises `IdempotencyKeyReused` where it was not for what is asked now, or was deleted since, and
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
    if kept.is_batch != is_batch or [row for row, _ in rows] != list(asked):
        raise IdempotencyKeyReused(
            "This key came with another payload before. Send the same payload again, or a new key."
        )
    return [stored for _, stored in rows]
