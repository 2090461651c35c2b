"""PostgreSQL's URL: which ones the service accepts, and their form for SQLAlchemy and asyncpg."""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from iris_api.database import parameters, pg_variables, tls
from iris_api.database.hosts import DEFAULT_PORT, Host, fill_ports, parse_host
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

_SEVERAL_HOSTS = re.compile(
    r"(?P<before>[\w+]+://(?>(?:[^:/]*(?::[^@]*)?@)?))(?P<hosts>[^/?]*,[^/?]*)(?P<after>.*)",
    re.DOTALL,
)
"""A URL with a list of hosts, which libpq takes and SQLAlchemy does not.

The atomic group takes user and password as SQLAlchemy does: a comma in them begins no list.
"""
_NUMBER = re.compile("[0-9]{1,6}", re.ASCII)
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
"""The resolver's errors for a name that does not exist. EAI_AGAIN is one that it could not ask."""


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """IRIS_DATABASE_URL, in the forms that SQLAlchemy and asyncpg take."""

    url: URL
    """The driver, the user, the password and the database."""
    arguments: dict[str, Any]
    """All else that asyncpg's ``connect`` takes, but for ``server_settings``."""
    server_settings: dict[str, str]
    """Parameters that asyncpg sends to the server when it connects."""
    hosts: list[Host]
    """Those that asyncpg tries, in this order, except for its default sockets."""

    @property
    def address(self) -> str:
        """The hosts and ports, for people."""
        return ", ".join(map(str, self.hosts))

    def leads_nowhere(self, error: BaseException | None) -> bool:
        """Whether this failure to connect means that the host or the socket's folder is missing.

        Of several hosts, the error is only the last one's, so this is false.
        """
        is_unknown = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
        return len(self.hosts) == 1 and (is_unknown or self.hosts[0].has_no_folder)


def database_url(settings: Settings) -> DatabaseUrl:
    """Return the settings' URL, read as libpq reads it.

    Raises `ConfigurationError` where no URL is set, where it is not one of PostgreSQL, or where
    asyncpg could not do what it asks for, with the PG* variables of the environment.
    """
    url = _parse(settings)
    query = _query_of(url)
    hosts = _hosts_of(url, query)
    pg_variables.check(replaced=query)
    _demand_certificate(query, hosts)
    _check_tls(query, hosts)
    return DatabaseUrl(
        URL.create(
            "postgresql+asyncpg",
            query.get("user", url.username),
            query.get("password", url.password),
            database=query.get("dbname", url.database),
        ),
        _arguments_of(settings, query, hosts),
        {name: query[name] for name in ("application_name", "options") if name in query},
        hosts,
    )


def _parse(settings: Settings) -> URL:
    """Return the URL in SQLAlchemy's form: a list of hosts is in its query."""
    if settings.database_url is None:
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not set. Set it to postgresql://user:password@host/database, "
            "or use `iris-api serve`, which brings an embedded PostgreSQL."
        )
    text = settings.database_url.get_secret_value()
    several = _SEVERAL_HOSTS.fullmatch(text)
    if several:
        text = several["before"] + several["after"]
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # a wrong port is a bare ValueError
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not a URL. It has the form postgresql://user:password@host/database."
        ) from None
    if url.drivername not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ConfigurationError(
            f"IRIS_DATABASE_URL names {url.drivername}. The service needs PostgreSQL: postgresql://"
        )
    if several and "host" not in url.query:
        url = url.update_query_dict({"host": unquote(several["hosts"])})
    return url


def _query_of(url: URL) -> dict[str, str]:
    """Return the parameters, checked, and SQLAlchemy's and JDBC's ``ssl`` as libpq's sslmode."""
    parameters.check_names(url.query)
    query = {}
    for name, value in url.query.items():
        if not isinstance(value, str) and name not in {"host", "port"}:
            raise ConfigurationError(
                f"IRIS_DATABASE_URL has more than one {name}. Give one of each."
            )
        query[name] = value if isinstance(value, str) else ",".join(value)
    if "ssl" in query:
        mode = query.pop("ssl")
        query.setdefault("sslmode", "require" if mode == "true" else mode)
    parameters.check_values(query)
    return query


def _hosts_of(url: URL, query: Mapping[str, str]) -> list[Host]:
    """Return the hosts with their ports, of the URL or else of PGHOST and PGPORT."""
    names = query.get("host") or unquote(url.host or "")
    try:
        hosts = [parse_host(name) for name in names.split(",")] if names else []
        hosts = hosts or pg_variables.hosts_of_environment()
        for ports in (query.get("port"), url.port):
            if ports is not None:
                hosts = fill_ports(hosts, str(ports).split(","))
    except ValueError:
        raise ConfigurationError(
            "IRIS_DATABASE_URL has a host or a port that does not fit. A port is a number from 1 "
            "to 65535; several hosts are one:5432,other:5432."
        ) from None
    return pg_variables.with_ports_of_environment(hosts)


def _demand_certificate(query: dict[str, str], hosts: Sequence[Host]) -> None:
    """Set the sslmode that ``channel_binding=require`` and ``sslrootcert=system`` need.

    asyncpg has no channel binding, which proves that the server at the other end of TLS knows the
    password, whatever its certificate says. Hosted databases ask for it with ``sslmode=require``.
    Refusing their URLs would not help the user, and ignoring the parameter would admit another
    server. So the service demands a certificate for the host, signed by a trusted authority.
    """
    binding = query.get("channel_binding") or os.environ.get("PGCHANNELBINDING")
    if binding == "require" and not all(host.is_socket for host in hosts):
        query["sslmode"] = "verify-full"
        if not tls.has_root_certificate(query):
            query["sslrootcert"] = tls.SYSTEM
    is_system = query.get("sslrootcert") == tls.SYSTEM
    if is_system and query.setdefault("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError(
            "IRIS_DATABASE_URL has sslrootcert=system with a weaker sslmode. Anybody can have a "
            "certificate of these authorities, so it needs sslmode=verify-full."
        )


def _check_tls(query: Mapping[str, str], hosts: Sequence[Host]) -> None:
    """Raise `ConfigurationError` where asyncpg could not use TLS as the parameters say."""
    default = "disable" if all(host.is_socket for host in hosts) else "prefer"
    mode = query.get("sslmode") or os.environ.get("PGSSLMODE") or default
    negotiation = query.get("sslnegotiation") or os.environ.get("PGSSLNEGOTIATION")
    if negotiation == "direct" and mode not in parameters.ENCRYPTING:
        source = "sslnegotiation of IRIS_DATABASE_URL"
        if "sslnegotiation" not in query:
            source = "PGSSLNEGOTIATION in the environment"
        raise ConfigurationError(
            f"{source} does not fit: `direct` needs sslmode=require or a stricter one. Set that, "
            "or unset it."
        )
    tls.check_files(query, mode)
    if mode != "disable":
        tls.leave_home_that_is_closed()


def _arguments_of(
    settings: Settings, query: Mapping[str, str], hosts: Sequence[Host]
) -> dict[str, Any]:
    """Return asyncpg's arguments; a DSN beside them has the parameters that only a DSN can have."""
    arguments: dict[str, Any] = {"timeout": _timeout(settings, query)}
    if hosts[0].name:
        arguments["host"] = [host.name for host in hosts]
    if any(host.port for host in hosts):
        arguments["port"] = [host.port or DEFAULT_PORT for host in hosts]
    in_dsn = {name: query[name] for name in sorted(parameters.FOR_ASYNCPG & query.keys())}
    if in_dsn:
        arguments["dsn"] = f"postgresql://?{urlencode(in_dsn)}"
    if query.get("sslrootcert") == tls.SYSTEM:
        arguments["ssl"] = tls.system_context(query)
    size = query.get("prepared_statement_cache_size")
    if size is not None:
        if not _NUMBER.fullmatch(size):
            raise ConfigurationError(
                "IRIS_DATABASE_URL has a prepared_statement_cache_size that is no whole number; 0 "
                "turns it off."
            )
        arguments["prepared_statement_cache_size"] = int(size)
    return arguments


def _timeout(settings: Settings, query: Mapping[str, str]) -> float:
    """Return the seconds that opening a connection may take."""
    text = query.get("connect_timeout")
    if text is None:
        return settings.database_connect_timeout
    if not _NUMBER.fullmatch(text) or int(text) == 0:
        raise ConfigurationError(
            "IRIS_DATABASE_URL has a connect_timeout that is no whole number of seconds from 1 up: "
            "the service waits for nothing without end. Remove it, and "
            "IRIS_DATABASE_CONNECT_TIMEOUT counts."
        )
    return float(text)
