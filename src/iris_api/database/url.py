"""PostgreSQL's URL: what the service takes for one, and how asyncpg is told of it."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

_SEVERAL = frozenset({"host", "port"})
"""What may be given once for each of several hosts."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey")
_PARAMETERS = _SEVERAL | {"ssl", "prepared_statement_cache_size", *_TLS_FILES}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERIFYING = ("verify-ca", "verify-full")
_ROOT_OF_LIBPQ = "~/.postgresql/root.crt"


def database_url(settings: Settings) -> URL:
    """The settings' URL, with asyncpg as its driver and libpq's parameters in asyncpg's words.

    Raises `ConfigurationError` where none is set, or where it is not one of PostgreSQL.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not set. Set it to postgresql://user:password@host/database, "
            "or use `iris-api serve`, which brings an embedded PostgreSQL."
        )
    try:
        url = make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):  # a wrong port is a bare ValueError
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not a URL. It has the form postgresql://user:password@host/database."
        ) from None
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL names {url.drivername}. The service needs PostgreSQL: postgresql://"
        )
    url = url.set(drivername="postgresql+asyncpg")
    if "sslmode" in url.query:
        url = url.update_query_dict({"ssl": url.query["sslmode"]})
        url = url.difference_update_query(["sslmode"])
    _check_parameters(url)
    return _with_tls_files(url)


def _check_parameters(url: URL) -> None:
    """Find out here what asyncpg would find out at the first connection, in worse words."""
    if unknown := sorted(set(url.query) - _PARAMETERS):
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has parameters that asyncpg does not take: {', '.join(unknown)}. "
            f"Remove them; it takes {', '.join(sorted(_PARAMETERS))} and sslmode."
        )
    single = {name: value for name, value in url.query.items() if isinstance(value, str)}
    if twice := sorted(set(url.query) - set(single) - _SEVERAL):
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has more than one {', '.join(twice)}. Give one of each."
        )
    if single.get("ssl", "prefer") not in _SSL_MODES:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has an sslmode that is none of {', '.join(_SSL_MODES)}."
        )
    _check_numbers(url)
    _check_tls_files(single)


def _check_numbers(url: URL) -> None:
    misfit = ConfigurationError(
        "IRIS_DATABASE_URL has a host, a port or a prepared_statement_cache_size that does not "
        "fit. The latter two are numbers, and each of several hosts needs a port: "
        "?host=one:5432&host=other:5432."
    )
    if "," in (url.host or ""):  # SQLAlchemy takes several hosts as parameters alone
        raise misfit
    try:
        _, arguments = url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError):
        raise misfit from None
    ports = arguments.get("port", 5432)
    if not all(0 < port < 2**16 for port in (ports if isinstance(ports, list) else [ports])):
        raise ConfigurationError("IRIS_DATABASE_URL has a port that is not from 1 to 65535.")
    if arguments.get("prepared_statement_cache_size", 0) < 0:
        raise ConfigurationError(
            "IRIS_DATABASE_URL has a prepared_statement_cache_size below 0; 0 turns it off."
        )


def _check_tls_files(query: Mapping[str, str]) -> None:
    """Read the files of TLS, and what asyncpg would verify by where none was given."""
    files = {name: query[name] for name in _TLS_FILES if name in query}
    if query.get("ssl") in _VERIFYING and "sslrootcert" not in files:
        root = Path(_ROOT_OF_LIBPQ).expanduser()
        files["sslrootcert"] = os.environ.get("PGSSLROOTCERT") or str(root)
    for name, file in files.items():
        try:
            Path(file).open("rb").close()
        except OSError as error:
            raise ConfigurationError(
                f"IRIS_DATABASE_URL asks for TLS, and {file} cannot be read: {error.strerror}. "
                f"Set its parameter {name} to a PEM file that this process can read."
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if "sslrootcert" in files:
            context.load_verify_locations(files["sslrootcert"])
    except ssl.SSLError:
        raise ConfigurationError(
            f"{files['sslrootcert']} holds no certificate. Set sslrootcert of IRIS_DATABASE_URL to "
            "a PEM file with that of the authority that signed the server's."
        ) from None
    try:
        if "sslcert" in files and "sslkey" in files:
            context.load_cert_chain(files["sslcert"], files["sslkey"], password="")
    except ssl.SSLError:
        raise ConfigurationError(
            "sslcert and sslkey of IRIS_DATABASE_URL are no certificate and its key. Set them to "
            "PEM files that belong together; the key has no passphrase."
        ) from None


def _with_tls_files(url: URL) -> URL:
    """Put the files of TLS where asyncpg takes them: in a DSN, beside its other arguments."""
    files = {name: url.query[name] for name in _TLS_FILES if name in url.query}
    if not files:
        return url
    url = url.difference_update_query(_TLS_FILES)
    return url.update_query_dict({"dsn": f"postgresql://?{urlencode(files)}"})
