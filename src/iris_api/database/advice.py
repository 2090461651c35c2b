"""Sentences for operators about failures of PostgreSQL: what to change, and what was meant."""

import re
import ssl

from asyncpg.exceptions import ClientConfigurationError

from iris_api.database.driver_errors import address_of, driver_error_of, message_of, sqlstate_of
from iris_api.errors import Problem

NOTHING_STORED = " Nothing was stored."
RETRY_HINT = "Nothing was stored. Try again soon."
_POOLER = (
    "Prepared statements are missing or taken, so a pooler in transaction mode stands before "
    "PostgreSQL. Set IRIS_DATABASE_PGBOUNCER=true."
)
_OPERATOR_HINTS = {
    "28": "PostgreSQL refuses the user or the password. Check those of IRIS_DATABASE_URL, and "
    "whether pg_hba.conf lets them in.",
    "3D": "PostgreSQL has no such database. Check the one of IRIS_DATABASE_URL, or create it.",
    "42P05": _POOLER,  # duplicate_prepared_statement
    "26000": _POOLER,  # invalid_sql_statement_name
    "42501": "PostgreSQL denies a privilege, or a row-level security policy does not let a row "
    "pass; the service's log says on what. Grant the role of IRIS_DATABASE_URL what "
    "docs/postgresql.md lists.",
}
"""Advice on failures that only operators can fix, by the beginning of the SQLSTATE."""
_PGBOUNCER_HINTS = {
    "unsupported startup parameter": "This is PgBouncer, which refuses a parameter. Set "
    "IRIS_DATABASE_PGBOUNCER=true. If it is set, take `options` out of IRIS_DATABASE_URL and set "
    "them on the role (docs/pgbouncer.md).",
    "prepared statement": _POOLER,
    'database ".*" does not exist|no such database': _OPERATOR_HINTS["3D"],
    'role ".*" does not exist|no such user|authentication failed': _OPERATOR_HINTS["28"],
}
"""The same by the message: PgBouncer uses one SQLSTATE, 08P01, for all its errors."""
_NO_TLS = "rejected SSL upgrade"
"""Part of asyncpg's message about a server without TLS."""


def advice_on(error: BaseException | None) -> str | None:
    """Return what operators must change, where retries cannot help; None for other failures."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "PostgreSQL's certificate is not one to trust. Check sslmode, sslrootcert, "
            "channel_binding and the host's name in IRIS_DATABASE_URL."
        )
    if isinstance(error, ConnectionError) and _NO_TLS in str(error):
        return (
            "PostgreSQL takes no TLS, which sslmode asks for. Turn it on there, or change sslmode "
            "of IRIS_DATABASE_URL."
        )
    if not isinstance(error, Exception):
        return None
    if isinstance(driver_error_of(error), ClientConfigurationError):
        return (
            "The parameters of the connection to PostgreSQL do not fit. Check IRIS_DATABASE_URL, "
            "and the PG* variables of the environment, which count where the URL says nothing."
        )
    code = sqlstate_of(error)
    if code == "08P01":
        message = message_of(error)
        found = (advice for words, advice in _PGBOUNCER_HINTS.items() if re.search(words, message))
    else:
        found = (advice for begin, advice in _OPERATOR_HINTS.items() if code.startswith(begin))
    return next(found, None)


def operator_message(problem: Problem) -> str:
    """Return the detail reworded for a command: with the address, and nothing of storing."""
    detail = problem.detail.replace(RETRY_HINT, "Check IRIS_DATABASE_URL, or try again soon.")
    address = address_of(problem.__cause__)
    if address is not None:
        detail = detail.replace("PostgreSQL", f"PostgreSQL at {address}", 1)
    return without_storing(detail)


def without_storing(detail: str) -> str:
    """Return a problem's detail for a probe or a command, which store nothing anyway."""
    return detail.replace(NOTHING_STORED, "")
