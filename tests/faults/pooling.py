"""The same faults behind PgBouncer: ``FAULTS_PGBOUNCER=1``."""

import os
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import URL
from tests.faults.asking import OVERLOADED
from tests.support.pgbouncer import PgBouncer

POOLED = os.environ.get("FAULTS_PGBOUNCER", "0") != "0"
HELD_UP = (OVERLOADED,) if POOLED else ()
"""How requests come out besides where PostgreSQL ends: PgBouncer holds them until it is back, so
that others wait for too long."""


class Pooling:
    """The PgBouncers of one trial; none where the faults are not to go through any."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._urls: dict[URL, URL] = {}
        self._stack = ExitStack()

    @property
    def port(self) -> int | None:
        """Of the only PgBouncer, where there is one."""
        return next((url.port for url in self._urls.values()), None)

    def settings(self, url: URL) -> dict[str, object]:
        """How a service is told of this database."""
        if POOLED:
            url = self._pooled(url)
        return {
            "database_url": url.render_as_string(hide_password=False),
            "database_pgbouncer": POOLED,
        }

    def close(self) -> None:
        self._stack.close()

    def _pooled(self, url: URL) -> URL:
        if url not in self._urls:
            folder = self._folder / f"pgbouncer-{len(self._urls)}"
            folder.mkdir()
            self._urls[url] = self._stack.enter_context(PgBouncer(url, folder)).url
        return self._urls[url]
