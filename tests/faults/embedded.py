"""The PostgreSQL that a service runs itself, as a trial sees it."""

import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from tests.faults.postgres import Postgres
from tests.support.service import poll_until

from iris_api.embedded.postgres import EmbeddedPostgres, provide_database
from iris_api.settings import Settings

T = TypeVar("T")


class EmbeddedServer(Postgres):
    """The server in a data directory; a service starts and ends it, and else whoever asks it."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / "postgres")
        self.settings: dict[str, Any] = {"database_url": "", "data_dir": data_dir}
        """What a service has to be told so that it runs this server."""
        self._server = EmbeddedPostgres(data_dir / "postgres")
        self._settings = Settings(data_dir=data_dir)

    def start(self, *options: str) -> None:
        """Leave that to the service."""
        assert not options, "it is the service that starts it"

    def kill_postmaster(self) -> float:
        """SIGKILL to the first process alone; return when that was."""
        [postmaster, *_] = self.processes()
        killed = time.monotonic()
        os.kill(postmaster, signal.SIGKILL)
        poll_until(lambda: self.processes()[:1] != [postmaster], "it is gone")
        return killed

    def ask(
        self,
        question: Callable[["asyncpg.Connection[asyncpg.Record]"], Coroutine[Any, Any, T]],
        database: str = "iris",
    ) -> T:
        """Ask while the service runs the server, or else run it meanwhile."""
        with provide_database(self._settings):
            return super().ask(question, database)

    async def connect(self, database: str = "iris") -> "asyncpg.Connection[asyncpg.Record]":
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host=str(self._server.socket_dir), user=self._server.url.username, database=database,
            ssl=False, command_timeout=60,
        )  # fmt: skip
        return connection
