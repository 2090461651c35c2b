"""A PostgreSQL server of a test's own, to be stopped, killed and filled up."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL
from tests.conftest import settings_for
from tests.faults.pooling import POOLED
from tests.faults.verdict import Stored
from tests.support.pgbouncer import bounds_of
from tests.support.ports import free_port
from tests.support.processes import children, command_of, exists, send
from tests.support.service import is_alive, poll_until

from iris_api.database.migrations import migrate
from iris_api.embedded.postgres import find_binaries
from iris_api.embedded.privileges import as_ordinary_user, chown_to_server_user

T = TypeVar("T")

SERVICE_ROLE = "iris"  # no superuser: connection limits do not hold for those
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 60
shared_buffers = 32MB
min_wal_size = 32MB
max_wal_size = 64MB
"""


class Postgres:
    """A server on ``folder``, on TCP, that a test may treat as it likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder.with_suffix(".log")
        self._options: tuple[str, ...] = ()

    @classmethod
    def initialise(cls, folder: Path) -> "Postgres":
        """Make a server with the service's database in it, and leave it stopped."""
        folder.mkdir(mode=0o700)
        chown_to_server_user(folder)
        _run(
            "initdb", f"--pgdata={folder}", "--username=postgres", "--auth=trust",
            "--encoding=UTF8", "--locale-provider=builtin", "--locale=C",
            "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
        server = cls(folder)
        server.start()
        server.execute(f"CREATE ROLE {SERVICE_ROLE} LOGIN", database="postgres")
        server.execute(f"CREATE DATABASE iris OWNER {SERVICE_ROLE}", database="postgres")
        if POOLED:
            server.execute(bounds_of(SERVICE_ROLE))
        migrate(settings_for(server.url()))
        server.stop("fast")
        return server

    @classmethod
    def copy_of(cls, template: "Postgres", folder: Path) -> "Postgres":
        """Another server with the same content. The owner of the files stays."""
        subprocess.run(["cp", "--archive", template.folder, folder], check=True)
        return cls(folder)

    @classmethod
    def standby_of(cls, primary: "Postgres", folder: Path) -> "Postgres":
        """A server that follows another one, which runs. It is stopped."""
        folder.mkdir(mode=0o700)
        chown_to_server_user(folder)
        _run(
            "pg_basebackup", f"--pgdata={folder}", "--checkpoint=fast", "--write-recovery-conf",
            f"--dbname=host=127.0.0.1 port={primary.port} user=postgres sslmode=disable",
        )  # fmt: skip
        return cls(folder)

    def url(self, port: int | None = None) -> URL:
        """Where the service finds it, through a proxy's port perhaps."""
        return URL.create(
            "postgresql", SERVICE_ROLE, host="127.0.0.1", port=port or self.port, database="iris",
            query={"sslmode": "disable"},
        )  # fmt: skip

    def start(self, *options: str) -> None:
        """Start it and wait for it.

        Parameters that are to be changed (``wal_writer_delay=10s``) stay so at later starts.
        """
        self._options += options
        words = [f"-c port={self.port}", *(f"-c {option}" for option in self._options)]
        self._pg_ctl("start", "-o", " ".join(words), "-l", str(self.log))

    def stop(self, mode: str) -> None:
        self._pg_ctl("stop", "-m", mode)

    def restart(self, mode: str) -> None:
        """With the parameters of the start."""
        self._pg_ctl("restart", "-m", mode, "-l", str(self.log))

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is one."""
        self._pg_ctl("promote")

    def is_running(self) -> bool:
        return self._postmaster() is not None

    def processes(self) -> list[int]:
        """All of the server's processes, the first of them first."""
        postmaster = self._postmaster()
        return [] if postmaster is None else [postmaster, *children(postmaster)]

    def freeze(self) -> list[int]:
        """SIGSTOP to all processes; the ids are for `thaw`."""
        first, *_ = self.processes()
        send(signal.SIGSTOP, [first])  # from now on there are no new ones
        frozen = [first, *children(first)]
        send(signal.SIGSTOP, frozen)
        return frozen

    def kill(self) -> None:
        """SIGKILL to all processes."""
        frozen = self.freeze()
        send(signal.SIGKILL, frozen)
        # Ended is not enough: PostgreSQL does not start while its old process waits to be reaped.
        poll_until(lambda: not any(map(exists, frozen)), "PostgreSQL's processes are gone")

    def execute(self, statement: str, database: str = "iris") -> None:
        """Run a statement as superuser."""
        self.ask(lambda connection: connection.execute(statement), database)

    def set(self, parameter: str, value: str) -> None:
        """Change a parameter in the running server, and for later starts."""
        self.execute(f"ALTER SYSTEM SET {parameter} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def value(self, query: str) -> Any:
        """The first column of a query's first row."""
        return self.ask(lambda connection: connection.fetchval(query))

    def predictions(self) -> list[Stored]:
        """All that is stored."""
        query = """
            SELECT iris_predictions.id::text, sepal_length, prediction_label, name,
                extract(epoch FROM iris_predictions.created_at)::float8
            FROM iris_predictions JOIN clients ON clients.id = client_id
        """
        rows = self.ask(lambda connection: connection.fetch(query))
        return [Stored(*row) for row in rows]

    def backends(self, *, at_work: bool = False) -> list[int]:
        """The processes that serve the service's connections; all, or those with work to do."""
        query = "SELECT pid, state FROM pg_stat_activity WHERE application_name = 'iris-api'"
        rows = self.ask(lambda connection: connection.fetch(query))
        return [row["pid"] for row in rows if not at_work or row["state"] != "idle"]

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """Leave a transaction open, in which this has been done, for the length of the block."""
        with asyncio.Runner() as runner:
            connection = runner.run(self.connect())
            try:
                runner.run(connection.execute(f"BEGIN; {statement}"))
                yield
            finally:  # what it holds would stop whoever looks at what a failed test has left
                runner.run(connection.close())

    def ask(
        self,
        question: Callable[["asyncpg.Connection[asyncpg.Record]"], Coroutine[Any, Any, T]],
        database: str = "iris",
    ) -> T:
        """Ask over a connection of its own, as superuser."""

        async def once() -> T:
            connection = await self.connect(database)
            try:
                return await question(connection)
            finally:
                await connection.close()

        return asyncio.run(once())

    async def connect(self, database: str = "iris") -> "asyncpg.Connection[asyncpg.Record]":
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="postgres", database=database, ssl=False,
            command_timeout=60,  # a test that has gone wrong must still come to its end
        )  # fmt: skip
        return connection

    def clean_up(self) -> None:
        """End what a test has left running, and remove its files."""
        processes = self.processes()
        if processes:
            send(signal.SIGCONT, processes)
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _postmaster(self) -> int | None:
        try:
            pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        except (OSError, IndexError):
            return None
        # A server that was killed leaves the file, and the id may be another process's by now.
        return pid if is_alive(pid) and str(self.folder) in command_of(pid) else None

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        try:
            _run("pg_ctl", action, "-D", str(self.folder), "-s", "-w", "-t", "60", *arguments)
        except AssertionError as error:
            log = self.log.read_text() if self.log.exists() else ""
            raise AssertionError(f"{error}\n{log[-2000:]}") from None


def _run(program: str, *arguments: str) -> None:
    """Run one of the wheel's programs. What it starts must not hold its output open."""
    result = subprocess.run(
        [*as_ordinary_user(), str(find_binaries() / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert result.returncode == 0, f"{program} {' '.join(arguments)}: {result.returncode}"
