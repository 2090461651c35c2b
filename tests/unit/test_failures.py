import re
from socket import EAI_NONAME, gaierror
from ssl import SSLCertVerificationError, SSLError

import asyncpg
import pytest
from asyncpg import TargetServerAttributeNotMatched
from asyncpg.exceptions import (
    AdminShutdownError,
    CannotConnectNowError,
    ConnectionFailureError,
    DuplicatePreparedStatementError,
    IdleInTransactionSessionTimeoutError,
    IndexCorruptedError,
    InsufficientPrivilegeError,
    InvalidAuthorizationSpecificationError,
    InvalidCachedStatementError,
    InvalidCatalogNameError,
    InvalidPasswordError,
    InvalidSQLStatementNameError,
    LockNotAvailableError,
    NumericValueOutOfRangeError,
    PostgresError,
    PostgresIOError,
    PostgresSyntaxError,
    ProtocolViolationError,
    QueryCanceledError,
    ReadOnlySQLTransactionError,
    TooManyConnectionsError,
    UndefinedColumnError,
    UndefinedTableError,
    UniqueViolationError,
)
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from iris_api.database.causes import describe_cause, log_cause
from iris_api.database.driver_errors import driver_error_of, sqlstate_of
from iris_api.database.failures import (
    is_outcome_unknown,
    problem_of,
    problem_of_write,
    should_discard,
    translates_failures,
)
from iris_api.errors import DatabaseUnavailable, Problem, SchemaOutdated
from iris_api.recording.idempotent import problem_of_key

wrong_version = SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
wrong_version.reason = "WRONG_VERSION_NUMBER"
UNREACHABLE: list[Exception] = [
    OSError("db.internal"),
    OSError("Multiple exceptions: [Errno 111] Connect call failed ('10.0.0.1', 5432), [Errno 111]"),
    gaierror(EAI_NONAME, "Name or service not known"),
    wrong_version,
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    PoolTimeout("QueuePool limit of size 8 overflow 0 reached"),
]
UNAVAILABLE = [
    ConnectionFailureError,
    InvalidPasswordError,
    InvalidCatalogNameError,
    TooManyConnectionsError,
    AdminShutdownError,
    CannotConnectNowError,
    QueryCanceledError,
    PostgresIOError,
    ReadOnlySQLTransactionError,
    LockNotAvailableError,
    IndexCorruptedError,
    InsufficientPrivilegeError,
]
DEFECTS = [UniqueViolationError, PostgresSyntaxError, NumericValueOutOfRangeError]


def raised(orig: BaseException, *, broken: bool = False) -> DBAPIError:
    """The error as SQLAlchemy raises it."""
    return DBAPIError("SELECT 1", None, orig, connection_invalidated=broken)


@pytest.mark.parametrize("error", UNREACHABLE, ids=repr)
def test_problem_of_an_unreachable_database_is_database_unavailable(error: Exception) -> None:
    assert isinstance(problem_of(error), DatabaseUnavailable)


def test_problem_of_an_unreachable_database_has_a_detail_for_each_cause() -> None:
    details = {problem.detail for problem in map(problem_of, UNREACHABLE) if problem}
    assert details == {
        f"{reason}. Nothing was stored. Try again soon."
        for reason in (
            "PostgreSQL cannot be reached",
            "PostgreSQL cannot be reached: Connection refused",
            "PostgreSQL cannot be reached: Name or service not known",
            "PostgreSQL cannot be reached: TLS failed (WRONG_VERSION_NUMBER)",
            "PostgreSQL did not answer in time",
            "All connections to PostgreSQL are in use",
        )
    }


@pytest.mark.parametrize("kind", UNAVAILABLE)
def test_problem_of_an_unavailable_database_is_database_unavailable_without_its_message(
    kind: type[PostgresError],
) -> None:
    problem = problem_of(raised(kind("user=iris password=hunter2")))
    assert isinstance(problem, DatabaseUnavailable)
    assert "hunter2" not in problem.detail


REFUSALS = {
    InvalidPasswordError("of hunter2"): "user or the password",
    InvalidAuthorizationSpecificationError("no pg_hba.conf entry for hunter2"): r"pg_hba\.conf",
    InvalidCatalogNameError("hunter2"): "no such database",
    InsufficientPrivilegeError("for hunter2"): "[Gg]rant",
    ProtocolViolationError("unsupported startup parameter: a"): "IRIS_DATABASE_PGBOUNCER=true",
    ProtocolViolationError(
        'bind message supplies 2 parameters, but prepared statement "a" requires 1'
    ): "IRIS_DATABASE_PGBOUNCER=true",
    DuplicatePreparedStatementError("of hunter2"): "IRIS_DATABASE_PGBOUNCER=true",
    InvalidSQLStatementNameError("of hunter2"): "IRIS_DATABASE_PGBOUNCER=true",
    ConnectionError('PostgreSQL server at "hunter2:5432" rejected SSL upgrade'): "takes no TLS",
    ProtocolViolationError('database "hunter2" does not exist'): "no such database",
    ProtocolViolationError("no such database: hunter2"): "no such database",
    ProtocolViolationError('role "hunter2" does not exist'): "user or the password",
    ProtocolViolationError("password authentication failed"): "user or the password",
    SSLCertVerificationError("Hostname mismatch for hunter2"): "sslrootcert",
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("error", "expected"), REFUSALS.items(), ids=repr)
def test_problem_of_a_permanent_refusal_says_what_to_change(
    error: Exception, expected: str, *, wrapped: bool
) -> None:
    problem = problem_of(raised(error) if wrapped and not isinstance(error, OSError) else error)
    assert isinstance(problem, DatabaseUnavailable)
    assert re.search(expected, problem.detail)
    assert problem.detail.endswith(" Nothing was stored.")
    assert "hunter2" not in problem.detail
    assert problem.headers["Retry-After"]


def test_problem_of_a_failed_pooler_login_to_its_server_says_try_again_soon() -> None:
    error = ProtocolViolationError("server login failed: the database system is shutting down")
    problem = problem_of(error)
    assert problem is not None
    assert "08P01" in problem.detail
    assert "Try again soon." in problem.detail


@pytest.mark.parametrize("orig", [Exception("connection is closed"), AdminShutdownError("a")])
def test_problem_of_a_broken_connection_with_any_error_is_database_unavailable(
    orig: Exception,
) -> None:
    assert isinstance(problem_of(raised(orig, broken=True)), DatabaseUnavailable)


def test_problem_of_hosts_without_a_primary_is_database_unavailable() -> None:
    assert isinstance(problem_of(TargetServerAttributeNotMatched("none")), DatabaseUnavailable)


@pytest.mark.parametrize("kind", [UndefinedTableError, UndefinedColumnError])
def test_problem_of_a_missing_table_or_column_is_schema_outdated(kind: type[PostgresError]) -> None:
    problem = problem_of(raised(kind("relation does not exist")))
    assert isinstance(problem, SchemaOutdated)
    assert "iris-api migrate" in problem.detail


@pytest.mark.parametrize("kind", DEFECTS)
def test_problem_of_a_wrong_statement_is_none(kind: type[PostgresError]) -> None:
    assert problem_of(raised(kind("duplicate key"))) is None


@pytest.mark.parametrize("error", [raised(Exception("no state")), SQLAlchemyError(), ValueError()])
def test_problem_of_an_error_without_sqlstate_is_none(error: Exception) -> None:
    assert problem_of(error) is None


@pytest.mark.parametrize("error", [*UNREACHABLE, raised(UndefinedTableError("a"))], ids=repr)
async def test_translates_failures_raises_a_failure_as_its_problem(error: Exception) -> None:
    @translates_failures
    async def query() -> None:
        raise error

    with pytest.raises(Problem) as problem:
        await query()
    assert problem.value.__cause__ is error


@pytest.mark.parametrize("error", [raised(UniqueViolationError("a")), KeyError("a")], ids=repr)
async def test_translates_failures_reraises_a_defect_unchanged(error: Exception) -> None:
    @translates_failures
    async def query() -> None:
        raise error

    with pytest.raises(type(error)) as defect:
        await query()
    assert defect.value is error


async def test_translates_failures_returns_the_result_and_keeps_the_function_name() -> None:
    @translates_failures
    async def double(number: int) -> int:
        return 2 * number

    assert await double(number=4) == 8
    assert double.__name__ == "double"


def every_error() -> list[Exception]:
    """Each class of errors that asyncpg has, without arguments too, and what SQLAlchemy makes."""
    kinds = [
        kind
        for kind in vars(asyncpg.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    bare = [kind() for kind in kinds if issubclass(kind, PostgresError)]
    told = [kind("told") for kind in kinds]
    others = [OSError(), OSError(2, "gone", "file"), OSError("a"), KeyError(), PoolTimeout()]
    drivers = [*bare, *told, *others]
    emulated = [EmulatedDBAPIException("a", one) for one in [*drivers, None]]
    for around, beneath in zip(emulated, drivers, strict=False):
        around.__cause__ = beneath
    wrapped = [raised(one, broken=broken) for one in emulated for broken in (False, True)]
    return [*drivers, *emulated, *wrapped, raised(wrapped[0])]


def test_failures_functions_raise_for_no_asyncpg_or_sqlalchemy_error() -> None:
    for error in every_error():
        problem = problem_of_write(error)
        assert problem is None or problem.__cause__ is error
        assert isinstance(is_outcome_unknown(error), bool)
        assert isinstance(should_discard(error), bool)
        assert describe_cause(error)["error"]
        problem_of_key(error)
        log_cause(problem or DatabaseUnavailable("a"))


def test_driver_error_of_a_wrapped_stale_statement_is_the_asyncpg_error() -> None:
    around = EmulatedDBAPIException("stale")
    around.__cause__ = InvalidCachedStatementError("stale")
    assert driver_error_of(raised(around)) is around.__cause__
    assert sqlstate_of(raised(around)) == "0A000"


def test_problem_of_an_unreadable_file_names_it_and_says_what_to_do() -> None:
    problem = problem_of(PermissionError(13, "Permission denied", "/home/iris/.postgresql/key"))
    assert problem is not None
    assert "/home/iris/.postgresql/key" in problem.detail
    assert "Permission denied" in problem.detail
    assert "HOME" in problem.detail


def test_problem_of_a_backend_ended_with_severity_fatal_is_database_unavailable() -> None:
    error = IdleInTransactionSessionTimeoutError("terminating connection due to a timeout")
    assert problem_of(error) is None
    error.severity_en = "FATAL"
    assert isinstance(problem_of(error), DatabaseUnavailable)
