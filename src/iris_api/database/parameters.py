"""How the service handles each parameter of a URL; docs/postgresql.md has the same as a table.

The names are libpq's (https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS),
SQLAlchemy's and those of other drivers that hosted databases put into their URLs.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from iris_api.errors import ConfigurationError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ENCRYPTING = SSL_MODES[SSL_MODES.index("require") :]
"""The modes that require TLS."""
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
CHOICES = {
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    # A standby, or a server that only reads, cannot store a prediction.
    "target_session_attrs": ("any", "primary", "read-write", "prefer-standby"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
    "channel_binding": ("disable", "prefer", "require"),
}
"""The values that asyncpg, or the service in its place, can use."""
FOR_ASYNCPG = frozenset(
    [
        "passfile",
        "sslmode",
        "sslnegotiation",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslrootcert",
        "sslcrl",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
    ]
)
"""Those that asyncpg takes in a DSN as libpq does."""
TAKEN = FOR_ASYNCPG | frozenset(
    [
        "host",
        "port",
        "user",
        "password",
        "dbname",
        "connect_timeout",
        "options",
        "application_name",
        "channel_binding",
        "ssl",
        "prepared_statement_cache_size",
    ]
)
IGNORED = frozenset(
    [
        "client_encoding",
        "fallback_application_name",
        "gssdelegation",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "max_protocol_version",
        "sslcompression",
        "tcp_user_timeout",
    ]
)
"""Those without which the service keeps its promises."""


class _Refusal(NamedTuple):
    reason: str
    """Why it cannot be kept, and what to do instead."""
    harmless: frozenset[str] = frozenset()
    """Values that ask for nothing."""


_OAUTH = "asyncpg has no OAuth: use a password or a client certificate"
_PASSWORD = "asyncpg needs the password itself"  # noqa: S105, no password
_SEVERAL_POOLS = "the service has its own pool: set IRIS_DATABASE_{} instead"
REFUSED = {
    "connection_limit": _Refusal(_SEVERAL_POOLS.format("POOL_SIZE")),
    "gssencmode": _Refusal(
        "asyncpg cannot encrypt by GSSAPI: use sslmode=verify-full instead",
        frozenset({"disable", "prefer"}),
    ),
    "hostaddr": _Refusal("asyncpg looks up the host itself: put the address into host"),
    "min_protocol_version": _Refusal("asyncpg speaks version 3.0", frozenset({"3.0"})),
    "oauth_client_id": _Refusal(_OAUTH),
    "oauth_client_secret": _Refusal(_OAUTH),
    "oauth_issuer": _Refusal(_OAUTH),
    "oauth_scope": _Refusal(_OAUTH),
    "pgbouncer": _Refusal("set IRIS_DATABASE_PGBOUNCER=true instead", frozenset({"false"})),
    "pool_timeout": _Refusal(_SEVERAL_POOLS.format("POOL_TIMEOUT")),
    "replication": _Refusal(
        "the service needs a connection for SQL", frozenset({"false", "off", "no", "0"})
    ),
    "require_auth": _Refusal(
        "asyncpg authenticates as the server asks: use sslmode=verify-full, so that no other "
        "server can ask"
    ),
    "requirepeer": _Refusal(
        "asyncpg does not look who runs the server: use a socket in a folder that only that user "
        "can write"
    ),
    "schema": _Refusal(
        "name it in the search path: options=-c%20search_path%3Dmy_schema", frozenset({"public"})
    ),
    "scram_client_key": _Refusal(_PASSWORD),
    "scram_server_key": _Refusal(_PASSWORD),
    "service": _Refusal(
        "the service checks each parameter, so write those of the service file into the URL"
    ),
    "sslcertmode": _Refusal(
        "asyncpg sends its client certificate to a server that asks for one: set or remove sslcert",
        frozenset({"allow"}),
    ),
    "sslcrldir": _Refusal("asyncpg reads one file: use sslcrl"),
    "sslkeylogfile": _Refusal("set SSLKEYLOGFILE in the environment instead"),
    "sslsni": _Refusal("asyncpg always names the host to the server", frozenset({"1"})),
}
_PROMISES = ("gssencmode", "require_auth", "requirepeer", "sslcertmode")
"""Those of `REFUSED` that make a connection safer, so their variables must not be overlooked."""
_OWN_SETTINGS = {
    "statement_timeout": "IRIS_DATABASE_COMMAND_TIMEOUT",
    "idle_in_transaction_session_timeout": "IRIS_DATABASE_COMMAND_TIMEOUT",
    "lock_timeout": "IRIS_DATABASE_LOCK_TIMEOUT",
    "application_name": "the parameter application_name",
    "client_connection_check_interval": None,
    "client_encoding": None,
    "default_transaction_isolation": None,
    "tcp_keepalives_count": None,
    "tcp_keepalives_idle": None,
    "tcp_keepalives_interval": None,
    "timezone": None,
}
"""The server settings that the service sends, and what changes them; None: nothing does."""
_OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([\w.-]+)\s*=")


def variable_of(name: str) -> str:
    """Return the environment variable that libpq reads for a parameter."""
    return f"PG{name.upper().replace('_', '')}"


def variables_refused() -> dict[str, tuple[frozenset[str], str]]:
    """Return, by variable, the harmless values and the reason why any other is refused."""
    return {variable_of(name): (REFUSED[name].harmless, REFUSED[name].reason) for name in _PROMISES}


def check_names(names: Iterable[str]) -> None:
    """Raise `ConfigurationError` for names that are no parameters."""
    if unknown := sorted(set(names) - TAKEN - IGNORED - REFUSED.keys()):
        raise ConfigurationError(
            f"IRIS_DATABASE_URL has parameters that are unknown: {', '.join(unknown)}. Remove "
            "them; docs/postgresql.md lists all. A setting of the server goes into options: "
            "options=-c%20name%3Dvalue."
        )


def check_values(query: dict[str, str]) -> None:
    """Raise `ConfigurationError` for a value that cannot be kept, with what to write instead."""
    for name, value in query.items():
        refusal = REFUSED.get(name)
        if refusal is not None and value not in refusal.harmless:
            raise ConfigurationError(
                f"{name} of IRIS_DATABASE_URL cannot be kept; {refusal.reason}. Remove it."
            )
        if name in CHOICES and value not in CHOICES[name]:
            raise ConfigurationError(
                f"{name} of IRIS_DATABASE_URL has to be one of {', '.join(CHOICES[name])}."
            )
    _check_options(query.get("options", ""))


def _check_options(options: str) -> None:
    """Refuse a server setting that the service sends itself: it would have no effect."""
    for option in _OPTION.findall(options):
        name = option.lower().replace("-", "_")
        if name in _OWN_SETTINGS:
            instead = _OWN_SETTINGS[name]
            advice = f"Use {instead} instead" if instead else "Remove it from options"
            raise ConfigurationError(
                f"options of IRIS_DATABASE_URL has {name}, which the service sets itself. {advice}."
            )
