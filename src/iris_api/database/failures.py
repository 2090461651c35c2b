"""Translates failures of PostgreSQL, its driver and the network into problems."""

import errno
import functools
import os
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.advice import NOTHING_STORED, RETRY_HINT, advice_on
from iris_api.database.driver_errors import (
    WRAPPERS,
    driver_error_of,
    message_of,
    severity_of,
    sqlstate_of,
    system_reason_of,
)
from iris_api.database.pool import READ_ONLY
from iris_api.errors import DatabaseUnavailable, NotStored, Problem, SchemaOutdated

P = ParamSpec("P")
T = TypeVar("T")

MIGRATE_HINT = "Run `iris-api migrate`."
_ASYNCPG_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# Classes and codes of https://www.postgresql.org/docs/18/errcodes-appendix.html
_UNAVAILABLE_CLASSES = ("08", "40", "53", "57", "58", "XX")
_UNAVAILABLE_CODES = (
    READ_ONLY,
    "55000",  # object_not_in_prerequisite_state: a database that takes no connections
    "55P03",  # lock_not_available
)
_OUTDATED_CODES = ("42P01", "42703")  # undefined_table, undefined_column
# The backend is gone (admin_shutdown, crash_shutdown, lost connection), perhaps after its commit;
# or it says that it does not know (statement_completion_unknown).
_BROKEN_OFF = ("08", "40003", "57P01", "57P02")
_FATAL = ("FATAL", "PANIC")
"""Severities that end the backend. An ERROR only rolls the transaction back."""
_ROW_CLASSES = ("22", "23", "P0")  # data exception, constraint violation, raised by a trigger
NOT_AS_SENT = "not stored as sent"
"""Part of the error message of a storing statement whose row is missing or changed."""
UNKNOWN_NAME = "unknown client or ML model"
"""Part of the error message of a storing statement before the first row of a client or model."""
_STALE = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)
"""asyncpg's errors for a statement that was prepared before a table was altered."""
NO_PARTITION = (
    "iris_predictions has no partition for this month. Run `iris-api partitions ensure`, or look "
    f"at the clock of PostgreSQL's machine.{NOTHING_STORED}"
)
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


def translates_failures(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Decorate a coroutine function that uses PostgreSQL, so that it raises a `Problem`.

    An unavailable database shows as `OSError`, as one of several ``TimeoutError``s, or as an error
    of SQLAlchemy or asyncpg. Any other exception is a defect and passes unchanged.

    If the first argument is a session, and a table was altered after a statement was prepared, the
    function runs once more: asyncpg cannot prepare it again within a transaction.
    """
    return _translated(function, problem_of)


def translates_write_failures(
    function: Callable[P, Awaitable[T]],
) -> Callable[P, Awaitable[T]]:
    """Like `translates_failures`, for functions that store predictions: see `problem_of_write`."""
    return _translated(function, problem_of_write)


def _translated(
    function: Callable[P, Awaitable[T]], problem_of: Callable[[Exception], Problem | None]
) -> Callable[P, Awaitable[T]]:
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except (*WRAPPERS, *_STALE) as error:
            session = args[0] if args else None
            if not (isinstance(session, AsyncSession) and _is_stale(error)):
                raise
            await session.rollback()
            return await function(*args, **kwargs)

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await run(*args, **kwargs)
        except (OSError, PoolTimeout, *WRAPPERS, *_ASYNCPG_ERRORS) as error:
            problem = problem_of(error)
            if problem is None:
                raise
            raise problem from error

    return wrapper


def problem_of(error: Exception) -> Problem | None:
    """Return the problem for an error of the driver or of SQLAlchemy; None for a defect.

    The error is the problem's ``__cause__``, for `iris_api.database.causes.log_cause`.
    """
    if isinstance(error, Problem):
        return error
    problem = _problem_of(error)
    if problem is not None:
        problem.__cause__ = error
    return problem


def problem_of_write(error: Exception) -> Problem | None:
    """Like `problem_of`, but any other refusal of PostgreSQL's is `NotStored`."""
    problem = problem_of(error)
    beneath = driver_error_of(error)
    if problem is None and isinstance(beneath, asyncpg.PostgresError):
        problem = NotStored(_reason_of_refusal(beneath))
        problem.__cause__ = error
    return problem


def _problem_of(error: Exception) -> Problem | None:
    advice = advice_on(error)
    if advice is not None:
        return DatabaseUnavailable(advice + NOTHING_STORED)
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable(f"All connections to PostgreSQL are in use. {RETRY_HINT}")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"PostgreSQL did not answer in time. {RETRY_HINT}")
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"{_reason_of(error)} {RETRY_HINT}")
    return _problem_of_answer(error)


def _problem_of_answer(error: Exception) -> Problem | None:
    """Return the problem for what PostgreSQL said, or for its hanging up."""
    code = sqlstate_of(error)
    if is_without_partition(error):
        return DatabaseUnavailable(NO_PARTITION)
    if code in _OUTDATED_CODES:
        return SchemaOutdated(f"The database lacks what this release needs. {MIGRATE_HINT}")
    if _is_disconnect(error):
        return DatabaseUnavailable(f"PostgreSQL disconnected. {RETRY_HINT}")
    if code.startswith((*_UNAVAILABLE_CLASSES, *_UNAVAILABLE_CODES)):
        return DatabaseUnavailable(f"PostgreSQL refused (SQLSTATE {code}). {RETRY_HINT}")
    if severity_of(error) in _FATAL:
        return DatabaseUnavailable(f"PostgreSQL disconnected (SQLSTATE {code}). {RETRY_HINT}")
    return None


def _reason_of(error: OSError) -> str:
    """Return why the operating system did not let this process reach PostgreSQL."""
    if error.errno in _TOO_MANY_FILES:
        return (
            "This process has as many open files as it may, so PostgreSQL cannot be reached. Raise "
            "its limit (ulimit -n), or lower IRIS_MAX_CONNECTIONS."
        )
    if error.filename is not None and error.errno is not None:
        return (
            f"PostgreSQL cannot be reached, for {error.filename} cannot be read: "
            f"{os.strerror(error.errno)}. Let the service's user read it, or set its HOME."
        )
    reason = system_reason_of(error)
    return f"PostgreSQL cannot be reached: {reason}." if reason else "PostgreSQL cannot be reached."


def _reason_of_refusal(error: asyncpg.PostgresError) -> str:
    if is_not_as_sent(error):
        return "PostgreSQL stored no row, or other values than were sent, and was told to undo it."
    constraint = getattr(error, "constraint_name", None)
    of_it = f", constraint {constraint}" if constraint else ""
    return f"PostgreSQL refused the row (SQLSTATE {error.sqlstate}{of_it})."


def is_refusal_of_a_row(error: asyncpg.PostgresError) -> bool:
    """Whether a row is at fault, so that the other rows of its group may be stored."""
    return sqlstate_of(error).startswith(_ROW_CLASSES) and not is_without_partition(error)


def is_not_as_sent(error: asyncpg.PostgresError) -> bool:
    """Whether a statement failed by its own check that rows are stored as sent."""
    return NOT_AS_SENT in message_of(error)


def is_unknown_name(error: Exception) -> bool:
    """Whether a storing statement failed because a client or an ML model is not in its table."""
    return UNKNOWN_NAME in message_of(error)


def is_without_partition(error: Exception) -> bool:
    """Whether no partition takes a row: then PostgreSQL names a table, but no constraint.

    A CHECK has the same SQLSTATE and names both; a trigger that raises it names neither.
    """
    beneath = driver_error_of(error)
    if not isinstance(beneath, asyncpg.CheckViolationError):
        return False
    names = (getattr(beneath, name, None) for name in ("table_name", "constraint_name"))
    return [name is not None for name in names] == [True, False]


def is_outcome_unknown(error: Exception) -> bool:
    """Whether a statement may have been committed although it failed."""
    if isinstance(error, ValueError):  # asyncpg could not even encode the arguments
        return False
    code = sqlstate_of(error)
    if code:
        return code.startswith(_BROKEN_OFF) or severity_of(error) in _FATAL
    return isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def should_discard(error: Exception) -> bool:
    """Whether the connection is useless, although it may still be open."""
    return is_outcome_unknown(error) or sqlstate_of(error) == READ_ONLY


def _is_stale(error: Exception) -> bool:
    return isinstance(driver_error_of(error), _STALE)


def _is_disconnect(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        is_of_a_row = sqlstate_of(error).startswith(_ROW_CLASSES)  # by a COMMIT
        return error.connection_invalidated and not is_of_a_row
    # Such as "connection is closed"; or none of several hosts fits target_session_attrs.
    return isinstance(driver_error_of(error), (asyncpg.InterfaceError, asyncpg.InternalClientError))
