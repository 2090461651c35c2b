"""What an error of PostgreSQL, its driver or the operating system says, whatever wraps it."""

import os
import re
import socket
import ssl

from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException

WRAPPERS = (DBAPIError, EmulatedDBAPIException)
"""SQLAlchemy's wrappers of an asyncpg error: both, or only the latter in its pool."""
_NOTE = "PostgreSQL at "
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def sqlstate_of(error: Exception) -> str:
    """Return the SQLSTATE of an asyncpg error or of its SQLAlchemy wrapper; empty if none."""
    return getattr(driver_error_of(error), "sqlstate", None) or ""


def severity_of(error: Exception) -> str | None:
    """Return the severity in English, such as ``FATAL``."""
    severity: str | None = getattr(driver_error_of(error), "severity_en", None)
    return severity


def message_of(error: Exception) -> str:
    """Return only the primary message: PostgreSQL's DETAIL may quote a row's values."""
    beneath = driver_error_of(error)
    return str(beneath.args[0]) if beneath.args else ""


def driver_error_of(error: BaseException) -> BaseException:
    """Return the error of asyncpg or the operating system, without SQLAlchemy's wrappers."""
    while isinstance(error, WRAPPERS):
        # SQLAlchemy's error for a stale statement has no ``orig``, only a ``__cause__``.
        beneath = error.orig or error.__cause__
        if beneath is None:
            break
        error = beneath
    return error


def note_address(error: OSError, address: str) -> None:
    """Make the error carry the address that could not be reached."""
    error.add_note(_NOTE + address)


def address_of(error: BaseException | None) -> str | None:
    """Return the address that could not be reached; None for other errors."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note.removeprefix(_NOTE) for note in notes if note.startswith(_NOTE)), None)


def system_reason_of(error: OSError) -> str:
    """Return what the operating system said, without an address; empty if it said nothing."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"  # its errno is OpenSSL's
    if isinstance(error, socket.gaierror):
        return error.strerror or ""
    if error.errno is not None:
        return os.strerror(error.errno)
    # asyncio tries each address of a name, and joins the messages if they differ.
    numbers = dict.fromkeys(map(int, _NUMBER.findall(str(error))))
    return ", ".join(map(os.strerror, numbers))
