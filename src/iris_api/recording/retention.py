"""Deletes what the database would otherwise keep for ever."""

import asyncio
import random
from datetime import timedelta

import structlog

from iris_api.database.causes import log_cause
from iris_api.database.crud import prune_idempotency_keys
from iris_api.database.session import SessionFactory
from iris_api.errors import Problem
from iris_api.settings import Settings

_SECONDS_BETWEEN_ROUNDS = 600
log = structlog.get_logger("iris_api")


async def forget_old_keys(session_factory: SessionFactory, settings: Settings) -> None:
    """Delete old Idempotency-Keys about every ten minutes, until cancelled.

    Every worker of every replica does so, and skips the keys that another one is deleting.
    """
    older_than = timedelta(hours=settings.idempotency_hours)
    while True:
        await asyncio.sleep(_SECONDS_BETWEEN_ROUNDS * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            async with session_factory() as session:
                while await prune_idempotency_keys(session, older_than=older_than):
                    pass
        except Problem as problem:
            log_cause(problem)
            log.warning("idempotency_keys_not_pruned", detail=problem.detail)
        except Exception:
            log.exception("idempotency_keys_not_pruned")
