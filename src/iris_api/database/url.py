"""PostgreSQL's URL: which ones the service accepts, and their form for asyncpg."""

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iris_api.database import pg_variables, tls
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

_SEVERAL = frozenset({"host", "port"})
"""Parameters that may occur once for each of several hosts."""
_PARAMETERS = _SEVERAL | {"ssl", "prepared_statement_cache_size", *tls.PARAMETERS}


def database_url(settings: Settings) -> URL:
    """Return the settings' URL, with asyncpg as its driver and asyncpg's parameter names.

    Raises `ConfigurationError` where no URL is set, where it is not one of PostgreSQL, or where
    asyncpg could not use it with the PG* variables of the environment.
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
    return tls.with_files(url)


def _check_parameters(url: URL) -> None:
    """Refuse what asyncpg would refuse at the first connection, in clearer words."""
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
    if single.get("ssl", "prefer") not in pg_variables.SSL_MODES:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has an sslmode that is none of {', '.join(pg_variables.SSL_MODES)}."
        )
    arguments = _check_numbers(url)
    hosts = _as_list(arguments.get("host"))
    mode = single.get("ssl", "")
    pg_variables.check(hosts, has_port="port" in arguments, mode=mode)
    mode = mode or os.environ.get("PGSSLMODE") or _default_mode(hosts)
    tls.check_files(single, mode)
    if mode != "disable":
        tls.leave_home_that_is_closed()


def _default_mode(hosts: list[str]) -> str:
    """Return the sslmode that asyncpg uses where none is set: Unix sockets have no TLS."""
    hosts = hosts or pg_variables.hosts_of_environment()
    return "disable" if hosts and all(host.startswith("/") for host in hosts) else "prefer"


def _as_list(value: Any) -> list[Any]:
    """Return one host or port, several, or none, as a list."""
    if isinstance(value, list):
        return value
    return [] if value in {None, ""} else [value]


def _check_numbers(url: URL) -> Mapping[str, Any]:
    """Check hosts, ports and the cache size; return asyncpg's arguments."""
    misfit = ConfigurationError(
        "IRIS_DATABASE_URL has a host, a port or a prepared_statement_cache_size that does not "
        "fit. The latter two are numbers, and each of several hosts needs a port: "
        "?host=one:5432&host=other:5432."
    )
    if "," in (url.host or ""):  # SQLAlchemy takes several hosts only as parameters
        raise misfit
    try:
        _, arguments = url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError):
        raise misfit from None
    if not all(0 < port < 2**16 for port in _as_list(arguments.get("port", 5432))):
        raise ConfigurationError("IRIS_DATABASE_URL has a port that is not from 1 to 65535.")
    if arguments.get("prepared_statement_cache_size", 0) < 0:
        raise ConfigurationError(
            "IRIS_DATABASE_URL has a prepared_statement_cache_size below 0; 0 turns it off."
        )
    return arguments
