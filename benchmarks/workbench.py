"""What every benchmark needs: its own PostgreSQL, and an ML model of each kind."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from pydantic import SecretStr
from sqlalchemy import make_url

from benchmarks.processes import LOAD_CORE, pin
from iris_api.auth.api_keys import create_api_key
from iris_api.database.migrations import migrate
from iris_api.database.session import session_scope
from iris_api.embedded.postgres import provide_database
from iris_api.inference.training import train
from iris_api.settings import Settings

HOME = Path(".iris/bench")
"""On a real disk, with fsync on: the benchmarks measure durable storage."""
MODELS = {"linear": "linear-discriminant", "forest": "random-forest"}


@dataclass(frozen=True)
class Workbench:
    """A migrated database, and a data directory for each of `MODELS`."""

    database_url: str

    def environment(self, model: str) -> dict[str, str]:
        """The environment of a server that uses this model."""
        return {
            "IRIS_DATABASE_URL": self.database_url,
            "IRIS_DATA_DIR": str(self.data_dir(model)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def data_dir(self, model: str) -> Path:
        """The data directory of a model."""
        return (HOME / model).resolve()

    def log(self, name: str) -> Path:
        """Where a server's output goes."""
        return HOME / f"{name}.log"

    def api_key(self) -> str:
        """A new API key of the benchmark's client."""

        async def make() -> str:
            settings = Settings(database_url=SecretStr(self.database_url))
            async with session_scope(settings) as session:
                return (await create_api_key(session, "bench", ["predict"]))[1]

        return asyncio.run(make())

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A new connection to the database."""
        url = make_url(self.database_url).set(drivername="postgresql")
        return await asyncpg.connect(url.render_as_string(hide_password=False))


@contextmanager
def workbench(*, empty: bool = True) -> Iterator[Workbench]:
    """Start the database on the load's core, and train the missing ML models.

    ``BENCH_DATABASE_URL`` names a database other than the embedded one; its rows are deleted.
    ``IRIS_DATABASE_URL`` has no effect here, because its rows may be in use.
    """
    for model, candidate in MODELS.items():
        folder = HOME / model / "model"
        if not folder.exists():
            train(folder, candidate=candidate)
    given = os.environ.get("BENCH_DATABASE_URL")
    settings = Settings(
        data_dir=HOME / "database", database_url=SecretStr(given) if given else None
    )
    with provide_database(settings, exclusive=True) as settings:
        assert settings.database_url is not None
        migrate(settings)
        _pin_database()
        bench = Workbench(settings.database_url.get_secret_value())
        if empty:
            asyncio.run(_truncate(bench))
        yield bench


async def _truncate(bench: Workbench) -> None:
    connection = await bench.connect()
    await connection.execute(
        "TRUNCATE iris_predictions, idempotency_keys, former_prediction_ids, api_keys"
    )
    await connection.close()


def _pin_database() -> None:
    """Keep the embedded PostgreSQL on the load's core; its backends inherit that."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        pin(pid, LOAD_CORE)


def settle() -> None:
    """Wait between two rounds, so that the machine is idle."""
    time.sleep(0.5)
