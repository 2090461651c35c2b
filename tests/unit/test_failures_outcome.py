"""Which failures leave open whether a row was stored."""

import asyncpg
import pytest
from asyncpg import exceptions as errors
from sqlalchemy.exc import DBAPIError

from iris_api.database.failures import is_outcome_unknown

UNKNOWN: list[Exception] = [
    ConnectionResetError(),
    BrokenPipeError(),
    TimeoutError(),
    OSError("Network is unreachable"),
    errors.InterfaceError("connection is closed"),
    errors.InternalClientError("got result for unknown protocol state"),
    errors.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
    errors.ConnectionFailureError("server closed the connection"),
    errors.AdminShutdownError("terminating connection due to administrator command"),
    errors.CrashShutdownError("terminating connection because of crash"),
]
NOT_STORED: list[Exception] = [
    errors.DataError("invalid input for query argument $1"),
    errors.UniqueViolationError("duplicate key"),
    errors.RaiseError("poison"),
    errors.QueryCanceledError("canceling statement due to statement timeout"),
    errors.LockNotAvailableError("canceling statement due to lock timeout"),
    errors.DeadlockDetectedError("deadlock detected"),
    errors.SerializationError("could not serialize access"),
    errors.CannotConnectNowError("the database system is starting up"),
    errors.TooManyConnectionsError("too many clients already"),
    errors.InvalidPasswordError("password authentication failed"),
    errors.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    errors.DiskFullError("could not extend file"),
    errors.UndefinedTableError("relation does not exist"),
    errors.IdleInTransactionSessionTimeoutError("terminating connection"),
    ValueError("asyncpg could not encode an argument"),
    KeyError("a defect"),
]


def raised(orig: Exception, *, broken: bool) -> DBAPIError:
    """The error as SQLAlchemy raises it."""
    return DBAPIError("COMMIT", None, orig, connection_invalidated=broken)


@pytest.mark.parametrize("error", UNKNOWN, ids=repr)
def test_is_outcome_unknown_of_a_lost_connection_is_true(error: Exception) -> None:
    assert is_outcome_unknown(error)


@pytest.mark.parametrize("error", NOT_STORED, ids=repr)
def test_is_outcome_unknown_of_a_refusal_or_a_defect_is_false(error: Exception) -> None:
    assert not is_outcome_unknown(error)


@pytest.mark.parametrize(
    "error",
    [one for one in [*UNKNOWN, *NOT_STORED] if isinstance(one, asyncpg.PostgresError)],
    ids=repr,
)
def test_is_outcome_unknown_of_a_wrapped_postgresql_error_is_as_of_the_error_itself(
    error: Exception,
) -> None:
    assert is_outcome_unknown(raised(error, broken=False)) == is_outcome_unknown(error)


@pytest.mark.parametrize("broken", [True, False])
def test_is_outcome_unknown_without_sqlstate_is_true_for_a_broken_connection_only(
    *, broken: bool
) -> None:
    assert is_outcome_unknown(raised(Exception("no state"), broken=broken)) == broken


def test_is_outcome_unknown_of_statement_completion_unknown_is_true() -> None:
    assert is_outcome_unknown(errors.StatementCompletionUnknownError("unknown"))


@pytest.mark.parametrize("kind", [errors.PostgresIOError, errors.DiskFullError])
def test_is_outcome_unknown_of_a_server_panic_is_true(kind: type[asyncpg.PostgresError]) -> None:
    error = kind.new({"S": "PANIC", "V": "PANIC", "C": kind.sqlstate, "M": "could not fsync"})
    assert error.severity_en == "PANIC"
    assert is_outcome_unknown(error)
