"""What a failure of PostgreSQL, of its driver or of the way there means to a caller."""

import functools
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeout

from iris_api.database.pool import READ_ONLY
from iris_api.errors import DatabaseUnavailable, Problem, SchemaOutdated

P = ParamSpec("P")
T = TypeVar("T")

MIGRATE_HINT = "Run `iris-api migrate`."
_NOTHING_STORED = " Nothing was stored."
_RETRY_HINT = "Nothing was stored. Try again soon."
_ASYNCPG_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_WRAPPERS = (DBAPIError, EmulatedDBAPIException)
"""What SQLAlchemy puts around an error of asyncpg's: both, or its pool the latter alone."""
# Classes and codes of https://www.postgresql.org/docs/18/errcodes-appendix.html
_UNAVAILABLE_CLASSES = ("08", "40", "53", "57", "58", "XX")
_UNAVAILABLE_CODES = (
    READ_ONLY,
    "55000",  # object_not_in_prerequisite_state: a database that takes no connections
    "55P03",  # lock_not_available
)
_TO_BE_MENDED = {
    "28": "PostgreSQL refuses the user or the password. Check those of IRIS_DATABASE_URL, and "
    "whether pg_hba.conf lets them in.",
    "3D": "PostgreSQL has no such database. Check the one of IRIS_DATABASE_URL, or create it.",
    "42501": "PostgreSQL denies a privilege. Grant the role of IRIS_DATABASE_URL those on the "
    "database, the schema, its tables and sequences; PostgreSQL's log says which is missing.",
}
"""What only those who run the service can mend, by how the code begins."""
_TOLD_BY_POOLER = {
    "unsupported startup parameter": "This is PgBouncer, which refuses a parameter. Set "
    "IRIS_DATABASE_PGBOUNCER=true.",
    'database ".*" does not exist|no such database': _TO_BE_MENDED["3D"],
    'role ".*" does not exist|no such user|authentication failed': _TO_BE_MENDED["28"],
}
"""The same by the message: PgBouncer has one code, 08P01, for all that it has to say."""
_OUTDATED_CODES = ("42P01", "42703")  # undefined_table, undefined_column
# The backend is gone, by admin_shutdown, crash_shutdown or a lost connection, perhaps after it had
# committed; or it says itself that it does not know (statement_completion_unknown).
_BROKEN_OFF = ("08", "40003", "57P01", "57P02")
_LAST_WORDS = ("FATAL", "PANIC")
"""Severities that end the backend. A mere ERROR has rolled the transaction back."""
_ROW_CLASSES = ("22", "23", "P0")  # data exception, constraint violation, raised by a trigger


def translates_failures(function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Decorate a coroutine function that speaks to PostgreSQL, so that it raises a `Problem`.

    An unavailable database shows as `OSError`, as one of several ``TimeoutError``s, or as an error
    of SQLAlchemy or of asyncpg; whatever is none of these is a defect and comes through as it is.
    """

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await function(*args, **kwargs)
        except (OSError, PoolTimeout, *_WRAPPERS, *_ASYNCPG_ERRORS) as error:
            problem = problem_of(error)
            if problem is None:
                raise
            raise problem from error

    return wrapper


def problem_of(error: Exception) -> Problem | None:
    """The problem that an error of the driver or of SQLAlchemy stands for; None for a defect."""
    if isinstance(error, Problem):
        return error
    advice = advice_on(error)
    if advice is not None:
        return DatabaseUnavailable(advice + _NOTHING_STORED)
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable(f"All connections to PostgreSQL are in use. {_RETRY_HINT}")
    if isinstance(error, TimeoutError):
        return DatabaseUnavailable(f"PostgreSQL did not answer in time. {_RETRY_HINT}")
    if isinstance(error, OSError):
        return DatabaseUnavailable(f"PostgreSQL cannot be reached. {_RETRY_HINT}")
    code = sqlstate_of(error)
    if code in _OUTDATED_CODES:
        return SchemaOutdated(f"The database lacks what this release needs. {MIGRATE_HINT}")
    if _has_broken_off(error):
        return DatabaseUnavailable(f"PostgreSQL broke off. {_RETRY_HINT}")
    if code.startswith((*_UNAVAILABLE_CLASSES, *_UNAVAILABLE_CODES)):
        return DatabaseUnavailable(f"PostgreSQL refused (SQLSTATE {code}). {_RETRY_HINT}")
    return None


def advice_on(error: BaseException | None) -> str | None:
    """What is to be changed where PostgreSQL refuses until it is; None for any other failure."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "PostgreSQL's certificate is not one to trust. Check sslmode, sslrootcert and the "
            "host's name in IRIS_DATABASE_URL."
        )
    if not isinstance(error, Exception):
        return None
    code = sqlstate_of(error)
    if code == "08P01":
        message = str(_driver_error_of(error))
        told = (advice for words, advice in _TOLD_BY_POOLER.items() if re.search(words, message))
    else:
        told = (advice for begin, advice in _TO_BE_MENDED.items() if code.startswith(begin))
    return next(told, None)


def as_told_to_operators(problem: Problem) -> str:
    """The detail for who runs a command, and has sent nothing that could be stored."""
    return problem.detail.replace(
        _RETRY_HINT, "Check IRIS_DATABASE_URL, or try again soon."
    ).removesuffix(_NOTHING_STORED)


def is_refusal_of_a_row(error: asyncpg.PostgresError) -> bool:
    """Whether a row is at fault, so that the others of its group may be stored without it."""
    return sqlstate_of(error).startswith(_ROW_CLASSES)


def is_outcome_unknown(error: Exception) -> bool:
    """Whether a statement that was sent may have been committed although it failed."""
    if isinstance(error, ValueError):  # asyncpg could not even encode the arguments
        return False
    code = sqlstate_of(error)
    if code:
        return code.startswith(_BROKEN_OFF) or _severity_of(error) in _LAST_WORDS
    return isinstance(error, (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def is_connection_spent(error: Exception) -> bool:
    """Whether the connection is of no use any more, though it may still be open."""
    return is_outcome_unknown(error) or sqlstate_of(error) == READ_ONLY


def sqlstate_of(error: Exception) -> str:
    """The SQLSTATE of an error of asyncpg's, or of SQLAlchemy's around it; empty where none is."""
    return getattr(_driver_error_of(error), "sqlstate", None) or ""


def _severity_of(error: Exception) -> str | None:
    severity: str | None = getattr(_driver_error_of(error), "severity_en", None)
    return severity


def _driver_error_of(error: Exception) -> BaseException:
    """What asyncpg raised, which SQLAlchemy's errors carry along."""
    return error.driver_exception if isinstance(error, _WRAPPERS) else error


def _has_broken_off(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    # Such as "connection is closed"; or, of several hosts, none was the one that was asked for.
    return isinstance(
        _driver_error_of(error), (asyncpg.InterfaceError, asyncpg.InternalClientError)
    )
