from socket import EAI_NONAME, gaierror

import pytest
from asyncpg.exceptions import InvalidCatalogNameError

from iris_api.database.advice import operator_message, without_storing
from iris_api.database.driver_errors import address_of, note_address
from iris_api.database.failures import problem_of

CHECK = "Check IRIS_DATABASE_URL, or try again soon."
ERRORS: list[tuple[Exception, str]] = [
    (OSError(), f"PostgreSQL at db:5432 cannot be reached. {CHECK}"),
    (
        ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 5432)"),
        f"PostgreSQL at db:5432 cannot be reached: Connection refused. {CHECK}",
    ),
    (
        gaierror(EAI_NONAME, "Name or service not known"),
        f"PostgreSQL at db:5432 cannot be reached: Name or service not known. {CHECK}",
    ),
    (TimeoutError(), f"PostgreSQL at db:5432 did not answer in time. {CHECK}"),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=repr)
def test_operator_message_of_an_unreachable_database_names_address_and_reason(
    error: OSError, expected: str
) -> None:
    note_address(error, "db:5432")
    problem = problem_of(error)
    assert problem is not None
    assert operator_message(problem) == expected
    assert "db" not in problem.detail
    assert "10.0.0.1" not in problem.detail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(), f"PostgreSQL cannot be reached. {CHECK}"),
        (
            InvalidCatalogNameError(),
            "PostgreSQL has no such database. Check the one of IRIS_DATABASE_URL, or create it.",
        ),
    ],
)
def test_operator_message_leaves_out_that_nothing_was_stored(
    error: Exception, expected: str
) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert operator_message(problem) == expected


def test_without_storing_keeps_the_reason_and_what_to_do() -> None:
    problem = problem_of(ConnectionRefusedError(111, ""))
    assert problem is not None
    expected = "PostgreSQL cannot be reached: Connection refused. Try again soon."
    assert without_storing(problem.detail) == expected


def test_address_of_an_error_with_other_notes_is_none() -> None:
    error = OSError()
    error.add_note("another note")
    assert address_of(error) is None
    assert address_of(None) is None
