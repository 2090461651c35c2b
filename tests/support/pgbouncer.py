"""PgBouncer in transaction mode, set up as docs/pgbouncer.md says."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

from sqlalchemy import URL
from tests.support.ports import free_port

from iris_api.embedded.privileges import as_ordinary_user

_CONFIGURATION = """
[databases]
* = {server}
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
PATH = f"{os.environ['PATH']}:/usr/sbin"
_PAGE = Path(__file__).parents[2] / "docs" / "pgbouncer.md"
_SECONDS_TO_START = 20
_SECONDS_BETWEEN_STARTS = 0.02


def bounds_of(role: str) -> str:
    """The page's statements that give a role the bounds which PgBouncer does not pass on."""
    bounds = re.findall(r"^ALTER ROLE iris (SET .+);$", _PAGE.read_text(), re.MULTILINE)
    assert bounds, "docs/pgbouncer.md has them"
    return "; ".join(f"ALTER ROLE {role} {bound}" for bound in bounds)


def _connection_string(server: URL) -> str:
    parts = {
        "host": server.query.get("host", server.host),
        "port": server.port or 5432,
        "user": server.username,
        "password": server.password,
    }
    return " ".join(f"{key}={value}" for key, value in parts.items() if value)


class PgBouncer:
    """A PgBouncer for all of a server's databases, started again whenever it fails.

    So does a supervisor of services. Debian's release, 1.18, ends with "bad client state" where a
    client leaves amid its cancel request, as a process does that ends (PgBouncer's issue 801).
    """

    def __init__(self, server: URL, folder: Path) -> None:
        program = shutil.which("pgbouncer", path=PATH)
        assert program, "install pgbouncer, or choose another IRIS_TEST_DATABASE"
        self._port = free_port()
        self.url = server.set(host="127.0.0.1", port=self._port, query={})
        """Where it answers, as the server's user."""
        file = folder / "pgbouncer.ini"
        text = _CONFIGURATION.format(server=_connection_string(server), port=self._port)
        file.write_text(text)
        self._command = [*as_ordinary_user(), program, str(file)]
        self._log = folder / "pgbouncer.log"
        self._is_stopping = False
        self._keeper = threading.Thread(target=self._keep, name="pgbouncer")

    def __enter__(self) -> Self:
        self._process = self._start()
        self._keeper.start()
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping = True
        while self._keeper.is_alive():  # which may be just starting another
            self._process.terminate()
            self._keeper.join(0.1)

    def fail(self) -> None:
        self._process.kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _keep(self) -> None:
        self._process.wait()
        while not self._is_stopping:
            time.sleep(_SECONDS_BETWEEN_STARTS)
            self._process = self._start()
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"PgBouncer did not start: {self._log.read_text()}")
