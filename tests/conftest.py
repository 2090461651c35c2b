"""A real PostgreSQL for the tests that want one, and a database of its own for each test.

``IRIS_TEST_DATABASE`` is ``container``, ``embedded``, ``pgbouncer`` (the embedded one, with a
PgBouncer between it and the service) or a URL; unset, it is a container where an engine answers,
else the embedded server. A migrated template is cloned for each test, so that the code under test
really commits.
"""

import asyncio
import gc
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import asyncpg
import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from requests.exceptions import RequestException
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncSession
from testcontainers.community.postgres import PostgresContainer
from tests.support.pgbouncer import PgBouncer, bounds_of

from iris_api import environment
from iris_api.app import create_app
from iris_api.database import create_engine, create_session_factory
from iris_api.database.migrations import migrate
from iris_api.embedded.postgres import provide_database
from iris_api.inference.training import train
from iris_api.settings import Settings

IMAGE = os.environ.get("IRIS_TEST_POSTGRES_IMAGE", "postgres:18")
CHOICE = os.environ.get("IRIS_TEST_DATABASE", "")
TEMPLATE = "iris_template"
_REASON = "IRIS_TEST_DATABASE_REASON"
_PULL_SECONDS = 60
_MEMORY = "/dev/shm"  # noqa: S108, pytest makes a folder of its own there
_ROOM_BYTES = 4 * 2**30

for name in [name for name in os.environ if re.match("IRIS_(?!TEST_)", name)]:
    del os.environ[name]  # the developer's own settings must not leak into a test
environment.ENV_FILE = "no.env"  # nor those of a file in this folder
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nor what nohup ignores, into the tests' servers


def _has_room_in_memory() -> bool:
    """Whether Linux' folder in memory has room for the tests' databases, and runs programs."""
    try:
        state = os.statvfs(_MEMORY)
    except OSError:
        return False
    runs_programs = not state.f_flag & getattr(os, "ST_NOEXEC", 0)
    return runs_programs and state.f_bavail * state.f_frsize >= _ROOM_BYTES


# A third of the time went into waiting for the disk. `make faults` breaks PostgreSQL on a disk.
if _has_room_in_memory() and not any("faults" in argument for argument in sys.argv):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)


def _why_no_container() -> str | None:
    """Why the tests cannot have a container of `IMAGE`; None where they can."""
    engine = None
    with suppress(DockerException):
        engine = docker.from_env(timeout=_PULL_SECONDS)
    if engine is None:
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # the client that failed has left a socket open
        return "no container engine answers"
    try:
        engine.images.get(IMAGE)
    except ImageNotFound:
        try:
            engine.images.pull(IMAGE)
        except (DockerException, RequestException) as error:
            reason = str(error).splitlines()[0]
            return f"the container engine has no image {IMAGE} and cannot pull it: {reason}"
    except (DockerException, RequestException) as error:
        return f"the container engine failed: {error}"
    finally:
        engine.close()
    return None


def _choose() -> tuple[str, str]:
    """The database, and the reason. A worker of xdist takes what its controller has chosen."""
    if CHOICE:
        return CHOICE, os.environ.get(_REASON, "IRIS_TEST_DATABASE says so")
    reason = _why_no_container()
    chosen = "container" if reason is None else "embedded"
    os.environ["IRIS_TEST_DATABASE"] = chosen
    os.environ[_REASON] = reason or "a container engine answers and has the image"
    return chosen, os.environ[_REASON]


DATABASE, REASON = _choose()


def pytest_report_header() -> str:
    if "://" in DATABASE:
        return f"PostgreSQL: {make_url(DATABASE).render_as_string(hide_password=True)}"
    details = {
        "container": IMAGE,
        "embedded": "the wheel's",
        "pgbouncer": "in transaction mode, before the wheel's",
    }
    return f"PostgreSQL: {DATABASE} ({details[DATABASE]}; {REASON})"


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A PostgreSQL server whose user may create databases."""
    if DATABASE == "container":
        with PostgresContainer(IMAGE, driver="asyncpg") as container:
            yield make_url(container.get_connection_url())
    elif DATABASE in {"embedded", "pgbouncer"}:
        settings = Settings(data_dir=tmp_path_factory.mktemp("postgres"))
        with provide_database(settings, exclusive=True) as embedded:
            assert embedded.database_url is not None
            url = make_url(embedded.database_url.get_secret_value())
            if DATABASE == "embedded":
                yield url
                return
            # A role of its own: the page's bounds are not for the tests' own connections.
            execute(url, f"CREATE ROLE {_POOLED_ROLE} LOGIN SUPERUSER; {bounds_of(_POOLED_ROLE)}")
            service = url.set(username=_POOLED_ROLE)
            with PgBouncer(service, tmp_path_factory.mktemp("pgbouncer")) as pooler:
                _poolers[url.set(database="")] = pooler.url
                yield url
    else:
        yield make_url(DATABASE).set(drivername="postgresql+asyncpg")


def execute(url: URL, statement: str) -> None:
    """Run one statement on a connection of its own, outside of any transaction."""

    async def run() -> None:
        connection = await asyncpg.connect(dsn_of(url))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def dsn_of(url: URL) -> str:
    """The URL as asyncpg itself takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


_POOLED_ROLE = "iris_pooled"
_poolers: dict[URL, URL] = {}
"""Where PgBouncer answers for a server, if the tests are to go through one."""


def way_to(url: URL) -> dict[str, object]:
    """The settings that lead a service to this database, by PgBouncer where the tests have one."""
    pooled = _poolers.get(url.set(database=""))
    if pooled is not None:
        url = pooled.set(database=url.database)
    text = url.render_as_string(hide_password=False)
    return {"database_url": text, "database_pgbouncer": pooled is not None}


def settings_for(url: URL, data_dir: Path = Path(".iris"), **changes: object) -> Settings:
    """The settings of a service on this database."""
    return Settings.model_validate({**way_to(url), "data_dir": data_dir, **changes})


@pytest.fixture(scope="session")
def template(server_url: URL) -> Iterator[str]:
    execute(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE}")
    execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    secret = SecretStr(server_url.set(database=TEMPLATE).render_as_string(hide_password=False))
    migrate(Settings(database_url=secret))  # directly: what is cloned has to be idle
    yield TEMPLATE
    execute(server_url, f"DROP DATABASE {TEMPLATE}")


_numbers = count(1)


@pytest.fixture
def empty_database(server_url: URL) -> Iterator[URL]:
    """A database without any schema."""
    yield from _database(server_url, "template1")


@pytest.fixture
def database(server_url: URL, template: str) -> Iterator[URL]:
    """A database at the head revision."""
    yield from _database(server_url, template)


@pytest.fixture(scope="module")
def service_database(server_url: URL, template: str) -> Iterator[URL]:
    """One for all tests of a module."""
    yield from _database(server_url, template)


def _database(server_url: URL, source: str) -> Iterator[URL]:
    name = f"iris_test_{os.getpid()}_{next(_numbers)}"
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {source}")
    yield server_url.set(database=name)
    execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def connection(database: URL) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the service's own: it sees what is committed, and nothing else."""
    connection = await asyncpg.connect(dsn_of(database))
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that holds a model; not to be changed."""
    data_dir = tmp_path_factory.mktemp("trained")
    train(data_dir / "model", candidate="linear-discriminant")
    return data_dir


@pytest.fixture
def data_dir(trained_model: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own, with a model in it."""
    return shutil.copytree(trained_model, tmp_path / "data")


@pytest.fixture
def settings(database: URL, data_dir: Path) -> Settings:
    return settings_for(database, data_dir)


@pytest.fixture
async def session(settings: Settings) -> AsyncIterator[AsyncSession]:
    engine = create_engine(settings)
    async with create_session_factory(engine)() as session:
        yield session
    await engine.dispose()


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application, started."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """A client of the application, within this process."""
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
