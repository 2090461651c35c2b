"""libpq's environment variables, such as PGPORT, which asyncpg and PostgreSQL's programs read too.

For a user's own database they configure what IRIS_DATABASE_URL leaves open. They are checked here,
where the message can name them. The embedded server leaves nothing open.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from iris_api.errors import ConfigurationError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
ENCRYPTING = SSL_MODES[SSL_MODES.index("require") :]
"""The modes that require TLS."""
_LAST_PORT = 65_535
_HOST = re.compile(r"/.*|(\[[^]]+\]|[^][:/]+)(:[0-9]+)?")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "PGSSLMODE": SSL_MODES,
    "PGSSLNEGOTIATION": ("postgres", "direct"),
    # A standby, or a server that only reads, cannot store a prediction.
    "PGTARGETSESSIONATTRS": ("any", "primary", "read-write", "prefer-standby"),
    "PGSSLMINPROTOCOLVERSION": ("", *_TLS_VERSIONS),
    "PGSSLMAXPROTOCOLVERSION": ("", *_TLS_VERSIONS),
    "PGGSSLIB": ("gssapi", "sspi"),
}
"""The values that asyncpg accepts and the service can use."""


@contextmanager
def hidden() -> Iterator[None]:
    """Remove the variables from this process's environment until the block ends.

    So they mislead neither its connections nor the processes that it starts.
    """
    removed = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)


def check(hosts: Sequence[str], *, has_port: bool, mode: str) -> None:
    """Refuse what asyncpg would refuse at each connection, in words that name the variable.

    ``hosts``, ``has_port`` and ``mode`` (sslmode) are those of IRIS_DATABASE_URL. PGHOST replaces
    missing hosts, PGSSLMODE an empty mode. Raises `ConfigurationError`.
    """
    names = [name for name in _CHOICES if name in os.environ]
    if mode:
        names = [name for name in names if name != "PGSSLMODE"]
    for name in names:
        choices = _CHOICES[name]
        if os.environ[name] not in choices:
            raise _misfit(name, f"one of {', '.join(filter(None, choices))}")
    is_direct = os.environ.get("PGSSLNEGOTIATION") == "direct"
    if is_direct and (mode or os.environ.get("PGSSLMODE")) not in ENCRYPTING:
        raise _misfit("PGSSLNEGOTIATION", "`postgres`, unless sslmode is at least `require`")
    if not hosts:
        hosts = hosts_of_environment()
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise _misfit(
                "PGHOST", "a host, or several as `one:5432,other:5432`; [::1] in brackets"
            )
    if not has_port:
        _check_ports(os.environ.get("PGPORT", "").split(","), len(hosts))


def hosts_of_environment() -> list[str]:
    """Return the hosts of PGHOST, none where it is unset."""
    text = os.environ.get("PGHOST")
    return text.split(",") if text else []


def _check_ports(ports: Sequence[str], hosts: int) -> None:
    if ports == [""]:
        return
    are_numbers = all(re.fullmatch("[0-9]+", port.strip()) for port in ports)
    if not are_numbers or not all(0 < int(port) <= _LAST_PORT for port in ports):
        raise _misfit("PGPORT", f"a number from 1 to {_LAST_PORT}")
    if len(ports) not in {1, hosts}:
        raise _misfit("PGPORT", "one port, or one for each host")


def _misfit(name: str, rule: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name} in the environment does not fit IRIS_DATABASE_URL: it has to be {rule}. Change "
        "it or unset it."
    )
