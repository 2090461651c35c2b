"""PgBouncer in transaction mode before the embedded PostgreSQL."""

import os
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
* = host={socket_dir} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 10
autodb_idle_timeout = 5
"""
_SECONDS_TO_START = 20


@contextmanager
def pgbouncer(server: URL, folder: Path) -> Iterator[URL]:
    """Where a PgBouncer for all of the server's databases answers."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "install pgbouncer, or choose another IRIS_TEST_DATABASE"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "pgbouncer.ini"
    socket_dir = server.query["host"]
    file.write_text(_CONFIGURATION.format(socket_dir=socket_dir, user=server.username, port=port))
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
