"""Tests whether PostgreSQL would store a prediction, by storing one."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.callers import ANONYMOUS_CALLER
from iris_api.database.failures import (
    is_not_as_sent,
    is_refusal_of_a_row,
    translates_write_failures,
)
from iris_api.database.pool import Driver
from iris_api.database.transactions import driver_transaction
from iris_api.errors import NotStored
from iris_api.iris import EXAMPLE, LABELS, ClassPrediction
from iris_api.recording.idempotent import CLAIM_BATCH, FIND_KEYED
from iris_api.recording.inserts import INSERT_ONE
from iris_api.recording.rows import NewPrediction
from iris_api.recording.statements import values

_LOCK_TIMEOUT = "500ms"
"""Shorter than a probe's timeout, so that the probe learns that a lock is the reason."""
_NAME_NOTHING = """
    WITH client AS (INSERT INTO clients (name) SELECT NULL::text WHERE false),
        model AS (INSERT INTO models (labels) SELECT NULL::text[] WHERE false)
    UPDATE models SET labels = NULL WHERE false
"""
"""Needs the privileges of `iris_api.database.names`, which the first row of a client or an ML model
needs."""
_NOT_NULL = "23502"
"""not_null_violation, of a column that this release does not know: it fills all others."""


@translates_write_failures
async def try_to_store(session: AsyncSession) -> None:
    """Store a prediction under an Idempotency-Key, find it again, and roll both back.

    This finds every obstacle to storing, without a list of possible causes. Raises
    `DatabaseUnavailable`, `SchemaOutdated` or `NotStored`. A refusal that may concern only this
    row, such as a constraint's, passes.
    """
    connection = await (await session.connection()).get_raw_connection()
    try:
        async with driver_transaction(connection, explicit=True, writes=False) as driver:
            await _store(driver)
    except asyncpg.PostgresError as error:
        is_of_all_rows = is_not_as_sent(error) or error.sqlstate == _NOT_NULL
        if is_of_all_rows or not is_refusal_of_a_row(error):
            raise


async def _store(driver: Driver) -> None:
    await driver.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; {_NAME_NOTHING}")
    label = LABELS[0]
    answer = ClassPrediction(0, label, {label: 1.0}, None)
    new = NewPrediction(ANONYMOUS_CALLER, EXAMPLE.as_row(), answer)
    [stored] = await driver.fetch(INSERT_ONE, *values(new))
    key = f"trial {stored['id']}"
    is_as_sent = await driver.fetchval(CLAIM_BATCH, ANONYMOUS_CALLER.client, key, [stored["id"]])
    is_batch = True
    found = await driver.fetch(FIND_KEYED, [ANONYMOUS_CALLER.client], [key], is_batch)
    if not is_as_sent or [one["id"] for one in found] != [stored["id"]]:
        raise NotStored("PostgreSQL did not keep an Idempotency-Key.")
