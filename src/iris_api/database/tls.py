"""The TLS files for PostgreSQL: which ones asyncpg will read, and whether it can."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from iris_api.database.parameters import ENCRYPTING, variable_of
from iris_api.errors import ConfigurationError

SYSTEM = "system"
"""As sslrootcert: the authorities that the operating system trusts."""
_VERIFYING = ("verify-ca", "verify-full")
_FOLDER = "~/.postgresql"
_DEFAULTS = {
    "sslrootcert": "root.crt",
    "sslcrl": "root.crl",
    "sslcert": "postgresql.crt",
    "sslkey": "postgresql.key",
}
"""The files in the folder, read where neither the URL nor a variable names one."""
_OF_THE_SERVER = ("sslrootcert", "sslcrl")
"""Read only where sslmode requires TLS."""
_NO_HOME = "/nonexistent"
log = structlog.get_logger("iris_api")


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    advice: str


def check_files(query: Mapping[str, str], mode: str) -> None:
    """Read the files that asyncpg would read for this sslmode at each connection.

    Raises `ConfigurationError`, which names the file at fault.
    """
    by_variable = "sslmode" not in query and os.environ.get("PGSSLMODE")
    source = "PGSSLMODE in the environment" if by_variable else "IRIS_DATABASE_URL"
    files = _files(query, mode)
    for file in files.values():
        try:
            Path(file.path).open("rb").close()
        except OSError as error:
            raise ConfigurationError(
                f"{source} asks for TLS, and {file.path} cannot be read: {error.strerror}. "
                f"{file.advice}"
            ) from None
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files, query)


def system_context(query: Mapping[str, str]) -> ssl.SSLContext:
    """Return what `sslrootcert=system` asks for, which asyncpg would take for a file's name."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    if least := _version(query, "ssl_min_protocol_version"):
        context.minimum_version = least
    if most := _version(query, "ssl_max_protocol_version"):
        context.maximum_version = most
    _load(context, _files(query, "verify-full"), query)
    return context


def _load(context: ssl.SSLContext, files: Mapping[str, _File], query: Mapping[str, str]) -> None:
    """Load the files into the context. Raises `ConfigurationError` for one without certificates."""
    for name in _OF_THE_SERVER:
        try:
            if name in files:
                context.load_verify_locations(files[name].path)
        except ssl.SSLError:
            raise ConfigurationError(
                f"{files[name].path} holds no certificate. Set {name} of IRIS_DATABASE_URL to a "
                "PEM file with that of the authority that signed the server's."
            ) from None
    if "sslcrl" in files:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    try:
        if "sslcert" in files:
            key = files["sslkey"].path if "sslkey" in files else None
            context.load_cert_chain(files["sslcert"].path, key, query.get("sslpassword", ""))
    except ssl.SSLError:
        raise ConfigurationError(
            f"{files['sslcert'].path} holds no certificate, or its key does not belong to it. Set "
            "sslcert and sslkey of IRIS_DATABASE_URL to PEM files that belong together, and "
            "sslpassword to the key's passphrase if it has one."
        ) from None


def _version(query: Mapping[str, str], name: str) -> ssl.TLSVersion | None:
    text = query.get(name) or os.environ.get(variable_of(name))
    return ssl.TLSVersion[text.replace(".", "_")] if text else None


def has_root_certificate(query: Mapping[str, str]) -> bool:
    """Whether the URL, a variable or the home folder names an authority to trust."""
    named = "sslrootcert" in query or os.environ.get("PGSSLROOTCERT")
    return bool(named) or _exists(f"{_FOLDER}/{_DEFAULTS['sslrootcert']}")


def _files(query: Mapping[str, str], mode: str) -> dict[str, _File]:
    """Return the files by parameter name, found as asyncpg finds them."""
    files = {}
    for name, default in _DEFAULTS.items():
        if query.get(name) == SYSTEM:
            continue
        is_looked_for = mode in ENCRYPTING if name in _OF_THE_SERVER else mode != "disable"
        variable = f"PG{name.upper()}"
        if name in query:
            files[name] = _File(query[name], _advice(name))
        elif is_looked_for and os.environ.get(variable):
            files[name] = _File(os.environ[variable], f"Change {variable} or unset it.")
        elif is_looked_for:
            path = f"{_FOLDER}/{default}"
            is_needed = name == "sslrootcert" and mode in _VERIFYING
            if is_needed or _exists(path):
                files[name] = _File(os.path.expanduser(path), _advice(name))  # noqa: PTH111, RuntimeError
    if "sslcert" not in files and "sslkey" not in query:
        files.pop("sslkey", None)
    return files


def _advice(name: str) -> str:
    if name == "sslcrl":
        return "Let this process read it, or remove it."
    return f"Set {name} of IRIS_DATABASE_URL to a PEM file that this process can read."


def _exists(path: str) -> bool:
    """Whether the file exists; False where this process may not look, or has no home."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):
        return False


def leave_home_that_is_closed() -> None:
    """Hide ~/.postgresql from asyncpg where this process may not look into it.

    supervisord's ``user=`` and ``sudo -E`` leave HOME as root's, and asyncpg would fail at each
    connection. Only a home without the files tells asyncpg "no client certificate", so this changes
    HOME for this process and its workers.
    """
    folder = Path(os.path.expanduser(_FOLDER))  # noqa: PTH111, Path's raises where there is no home
    try:
        (folder / _DEFAULTS["sslkey"]).stat()
    except PermissionError:
        log.warning("client_certificate_not_looked_for", folder=str(folder), reason="permissions")
        os.environ["HOME"] = _NO_HOME
    except OSError:
        pass  # such as a missing file; asyncpg ignores that
