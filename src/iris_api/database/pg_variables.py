"""libpq's environment variables, such as PGPORT, which asyncpg and PostgreSQL's programs read too.

For a user's own database they configure what IRIS_DATABASE_URL leaves open. They are checked here,
where the message can name them. The embedded server leaves nothing open.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from iris_api.database.hosts import ANY, Host, fill_ports, parse_host
from iris_api.database.parameters import CHOICES, variable_of, variables_refused
from iris_api.errors import ConfigurationError


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


def check(replaced: Collection[str]) -> None:
    """Refuse values that asyncpg cannot use, or would overlook, in words that name the variable.

    ``replaced`` are the parameters of IRIS_DATABASE_URL, which count more than the variables.
    Raises `ConfigurationError`.
    """
    for name in CHOICES.keys() - set(replaced):
        variable = variable_of(name)
        value = os.environ.get(variable)
        may_be_empty = name.endswith("protocol_version")
        if value is None or value in CHOICES[name] or (may_be_empty and not value):
            continue
        raise misfit(variable, f"one of {', '.join(CHOICES[name])}")
    for variable, (harmless, reason) in variables_refused().items():
        value = os.environ.get(variable)
        if value and value not in harmless:
            raise ConfigurationError(
                f"{variable} in the environment cannot be kept; {reason}. Unset it."
            )


def hosts_of_environment() -> list[Host]:
    """Return the hosts of PGHOST; `ANY` where it is unset. Raises `ConfigurationError`."""
    text = os.environ.get("PGHOST")
    if not text:
        return [ANY]
    try:
        return [parse_host(name) for name in text.split(",")]
    except ValueError:
        raise misfit("PGHOST", "a host, or several as `one:5432,other:5432`") from None


def with_ports_of_environment(hosts: Sequence[Host]) -> list[Host]:
    """Return the hosts, those without a port with that of PGPORT. Raises `ConfigurationError`."""
    text = os.environ.get("PGPORT")
    if not text or all(host.port for host in hosts):
        return list(hosts)
    try:
        return fill_ports(hosts, text.split(","))
    except ValueError:
        raise misfit("PGPORT", "a port from 1 to 65535, or one for each host") from None


def misfit(name: str, rule: str) -> ConfigurationError:
    """Return the error for a variable that does not follow the rule."""
    return ConfigurationError(
        f"{name} in the environment does not fit IRIS_DATABASE_URL: it has to be {rule}. Change "
        "it or unset it."
    )
