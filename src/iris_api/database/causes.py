"""Logs the error beneath a problem, in the words of its source."""

import time
from typing import Any

import asyncpg
import structlog

from iris_api.database.driver_errors import (
    address_of,
    driver_error_of,
    message_of,
    sqlstate_of,
)
from iris_api.errors import Problem

_SECONDS_BETWEEN_LINES = 10.0
"""Least time between two lines of one cause: while PostgreSQL is down, every request has it."""
_logged: dict[tuple[object, ...], tuple[float, int]] = {}
"""When each cause was last logged, in monotonic seconds, and its count of errors since."""
log = structlog.get_logger("iris_api")


def log_cause(problem: Problem) -> None:
    """Log the error of PostgreSQL, its driver or the operating system that caused the problem.

    Equal causes share one line per ten seconds; ``unlogged`` counts those without a line.
    """
    error = problem.__cause__
    if not isinstance(error, Exception):
        return
    cause = describe_cause(error)
    kind = ("error", "sqlstate", "constraint", "errno", "file")
    key = (problem.slug, *map(cause.get, kind))
    now = time.monotonic()
    logged_at, unlogged = _logged.get(key, (-_SECONDS_BETWEEN_LINES, 0))
    if now < logged_at + _SECONDS_BETWEEN_LINES:
        _logged[key] = logged_at, unlogged + 1
        return
    _logged[key] = now, 0
    log.warning("database_failure", problem=problem.slug, unlogged=unlogged, **cause)


def describe_cause(error: Exception) -> dict[str, Any]:
    """Return the error's class and message, and its SQLSTATE, constraint, errno... if any."""
    beneath = driver_error_of(error)
    message = message_of(error)
    cause: dict[str, Any] = {"error": type(beneath).__name__}
    if isinstance(beneath, OSError):
        message = beneath.strerror or str(beneath)
        file, address = beneath.filename, address_of(beneath)
        cause |= {"errno": beneath.errno, "file": file, "address": address}
    elif isinstance(beneath, asyncpg.PostgresError):
        cause |= {"constraint": getattr(beneath, "constraint_name", None)}
    cause |= {"message": message, "sqlstate": sqlstate_of(error)}
    return {name: value for name, value in cause.items() if value not in (None, "")}
