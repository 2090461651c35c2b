"""The hosts of a URL or of PGHOST: names, addresses or socket folders, each with its port."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

DEFAULT_PORT = 5432
_LAST_PORT = 65_535
_FORM = re.compile(
    r"(?P<folder>/.*)"
    r"|\[(?P<literal>[^]]+)\](:(?P<literal_port>[0-9]+))?"
    r"|(?P<name>[^][:]+)(:(?P<name_port>[0-9]+))?"
    r"|(?P<bare>[^][]*:[^][]*:[^][]*)"
)


class Host(NamedTuple):
    """A host and its port; None: the default port."""

    name: str
    """A name, an address without brackets, or the folder of a Unix socket."""
    port: int | None

    @property
    def is_socket(self) -> bool:
        """Whether it is the folder of a Unix socket."""
        return self.name.startswith("/")

    @property
    def has_no_folder(self) -> bool:
        """Whether it is the folder of a Unix socket that does not exist."""
        return self.is_socket and not Path(self.name).exists()

    def __str__(self) -> str:
        """Return the address for people, such as ``db.example:5432``."""
        port = self.port or DEFAULT_PORT
        if self.is_socket:
            return f"{self.name}/.s.PGSQL.{port}"
        return f"[{self.name}]:{port}" if ":" in self.name else f"{self.name or 'localhost'}:{port}"


ANY = Host("", None)
"""The sockets that asyncpg tries where no host is named, and then localhost."""


def parse_host(text: str) -> Host:
    """Return a host such as ``db``, ``db:5432``, ``[::1]:5432``, ``::1`` or ``/run/postgresql``.

    Raises `ValueError` for anything else.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError
    address = match["literal"] or match["bare"]
    if address:
        ip_address(address)
    name = match["folder"] or address or match["name"]
    if not match["folder"]:
        name.encode("idna")  # as asyncio does; a label may be empty or too long
    port = match["literal_port"] or match["name_port"]
    return Host(name, _parse_port(port) if port else None)


def fill_ports(hosts: Sequence[Host], ports: Sequence[str]) -> list[Host]:
    """Return the hosts; those without a port get theirs of ``ports``: one for all or one for each.

    Raises `ValueError` where these are no ports, or too many or too few.
    """
    numbers = [_parse_port(port) for port in ports]
    if len(numbers) == 1:
        numbers *= len(hosts)
    pairs = zip(hosts, numbers, strict=True)
    return [Host(host.name, host.port or number) for host, number in pairs]


def _parse_port(text: str) -> int:
    port = int(text)
    if not 0 < port <= _LAST_PORT:
        raise ValueError
    return port
