"""PgBouncer in transaction mode, set up as README.md says."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from iris_api.database.privileges import as_ordinary_user

_CONFIGURATION = """
[databases]
* = host={host} port={server_port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 8
autodb_idle_timeout = 5
server_login_retry = 1
"""
_README = Path(__file__).parents[1] / "README.md"
_SECONDS_TO_START = 20


def bounds_of(role: str) -> str:
    """README's statements that give a role the bounds which PgBouncer does not pass on."""
    bounds = re.findall(r"^ALTER ROLE iris (SET .+);$", _README.read_text(), re.MULTILINE)
    assert bounds, "README.md has them"
    return "; ".join(f"ALTER ROLE {role} {bound}" for bound in bounds)


@contextmanager
def pgbouncer(server: URL, folder: Path) -> Iterator[URL]:
    """Where a PgBouncer for all of the server's databases answers, as the URL's user."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "install pgbouncer, or choose another IRIS_TEST_DATABASE"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "pgbouncer.ini"
    text = _CONFIGURATION.format(
        host=server.query.get("host", server.host),
        server_port=server.port or 5432,
        user=server.username,
        port=port,
    )
    file.write_text(text)
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [*as_ordinary_user(), program, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(port, process, folder / "pgbouncer.log")
        yield server.set(host="127.0.0.1", port=port, query={})
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"PgBouncer did not start: {log.read_text()}")
