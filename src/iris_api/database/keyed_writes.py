"""How the predictions of requests with an ``Idempotency-Key`` are stored: once for each key.

The key is claimed in the very transaction that stores its rows. Failures are as in
`iris_api.database.writes`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import asyncpg
from pydantic_core import from_json
from sqlalchemy import PoolProxiedConnection

from iris_api.database.transactions import driver_transaction
from iris_api.database.writes import (
    ARRAYS,
    COLUMN_LIST,
    NewPrediction,
    StoredAs,
    arrays,
    copy,
    draw_ids,
)
from iris_api.errors import IdempotencyKeyReused, OutcomeUnknown
from iris_api.inference.classifier import ClassPrediction, Row

Outcome: TypeAlias = StoredAs | IdempotencyKeyReused | OutcomeUnknown
_Kept: TypeAlias = tuple[Row, StoredAs]

# A row is stored where it has no key, or where its key is new. PostgreSQL settles who is first: a
# key that another transaction is just storing is waited for. All claim in the order of their keys,
# so two groups cannot wait for each other.
_INSERT_KEYED_GROUP = f"""
    WITH owned AS MATERIALIZED (
        SELECT pg_get_serial_sequence('iris_predictions', 'id')::regclass AS sequence
    ), new AS MATERIALIZED (
        SELECT nextval(sequence) AS id, arrays.*
        FROM owned, {ARRAYS}, $10::text[])
        WITH ORDINALITY AS arrays ({COLUMN_LIST}, key, position)
    ), claimed AS (
        INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids)
        SELECT client, key, false, ARRAY[id] FROM new WHERE key IS NOT NULL ORDER BY client, key
        ON CONFLICT DO NOTHING
        RETURNING prediction_ids[1] AS id
    ), stored AS (
        INSERT INTO iris_predictions (id, {COLUMN_LIST})
        OVERRIDING SYSTEM VALUE
        SELECT id, {COLUMN_LIST} FROM new
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


async def insert_keyed_group(
    connection: PoolProxiedConnection, group: Sequence[NewPrediction]
) -> list[Outcome]:
    """Insert and commit those rows whose key is new, or that have none, in one round trip.

    A row whose key its client has used before is not stored again: it gets what was stored then, or
    `IdempotencyKeyReused`. Raises what asyncpg raises where PostgreSQL refuses a row.
    """
    async with driver_transaction(connection) as driver:
        rows = await driver.fetch(_INSERT_KEYED_GROUP, *arrays(group))
    repeated = [new for new, row in zip(group, rows, strict=True) if row["id"] is None]
    outcomes = iter(await _find_repeated(connection, repeated) if repeated else ())
    return [StoredAs(*row) if row["id"] is not None else next(outcomes) for row in rows]


async def _find_repeated(
    connection: PoolProxiedConnection, repeated: Sequence[NewPrediction]
) -> list[Outcome]:
    """What was stored for these keys, or why nobody can say; the others' rows are committed."""
    keys = [(new.client, str(new.idempotency_key)) for new in repeated]
    try:
        found = await _find_keyed(connection, keys, is_batch=False)
    except OutcomeUnknown as problem:
        return [problem] * len(repeated)
    outcomes: list[Outcome] = []
    for new, rows in zip(repeated, found, strict=True):
        try:
            outcomes += _require_same([new.row], rows)
        except IdempotencyKeyReused as problem:
            outcomes.append(problem)
    return outcomes


async def copy_rows_once(
    connection: PoolProxiedConnection,
    rows: Iterable[NewPrediction],
    asked: Sequence[Row],
    client: str,
    key: str,
) -> list[StoredAs]:
    """Insert and commit the rows by COPY, or return what the client stored under this key before.

    Raises `IdempotencyKeyReused` where those were not the rows ``asked`` for.
    """
    async with driver_transaction(connection, explicit=True) as driver:
        stored = await draw_ids(driver, len(asked))
        is_new = await driver.fetchval(_CLAIM_BATCH, client, key, [row.id for row in stored])
        if is_new:
            await copy(driver, rows, stored)
    if is_new:
        return stored
    [found] = await _find_keyed(connection, [(client, key)], is_batch=True)
    return _require_same(asked, found)


async def _find_keyed(
    connection: PoolProxiedConnection, keys: Sequence[tuple[str, str]], *, is_batch: bool
) -> list[list[_Kept]]:
    """For each pair of client and key, the rows that it stored: none where its kind was another.

    Raises `OutcomeUnknown` where PostgreSQL does not say: the key is known, so there are rows.
    """
    clients, names = map(list, zip(*keys, strict=True))
    try:
        async with driver_transaction(connection) as driver:
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
