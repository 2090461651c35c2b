"""Servers for the end-to-end tests, each ended with its test."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.support.service import Service, serving
from tests.support.workers import until_heard

from iris_api.embedded.postgres import provide_database
from iris_api.settings import Settings

SECONDS = 1.0
"""What a client may take for each thing that it owes."""
MOST_HEADER_BYTES = 4096
MEGABYTE = 2**20


class Start(Protocol):
    """Starts a service in the test's own folder; `Service.start` says how."""

    def __call__(self, *arguments: str, **settings: object) -> Service: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of the processes: nothing of a checkout is in it."""
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    yield from _starting(Service.start, folder)


@pytest.fixture
def start_interpreter(folder: Path) -> Iterator[Start]:
    """As `start`, where what a new interpreter inherits or imports is what is tested."""
    yield from _starting(Service.start_interpreter, folder)


def _starting(start: Callable[..., Service], folder: Path) -> Iterator[Start]:
    started: list[Service] = []

    def start_here(*arguments: str, **settings: object) -> Service:
        service = start(folder, *arguments, **settings)
        started.append(service)
        return service

    yield start_here
    for service in started:
        service.clean_up()


@pytest.fixture(scope="session")
def embedded_template(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with an ML model and an embedded PostgreSQL that is stopped and empty.

    Not to be changed. A copy of it spares the seconds of initdb.
    """
    data_dir = tmp_path_factory.mktemp("embedded") / "data"
    shutil.copytree(trained_model, data_dir)
    with provide_database(Settings(data_dir=data_dir)):
        return data_dir


@pytest.fixture
def embedded_dir(embedded_template: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own, with an ML model and an embedded PostgreSQL."""
    return copy_data_dir(embedded_template, tmp_path / "data")


def copy_data_dir(source: Path, target: Path) -> Path:
    """Copy a data directory whose PostgreSQL is stopped. The owner of the files stays."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


@pytest.fixture
def begin(start: Start, database: URL, data_dir: Path) -> Callable[..., Service]:
    """Starts a service with all its parts and these settings, and waits until it is ready."""
    return _beginning(start, database, data_dir)


@pytest.fixture
def begin_interpreter(
    start_interpreter: Start, database: URL, data_dir: Path
) -> Callable[..., Service]:
    """As `begin`, by `start_interpreter`."""
    return _beginning(start_interpreter, database, data_dir)


def _beginning(start: Start, database: URL, data_dir: Path) -> Callable[..., Service]:
    def begin(**settings: object) -> Service:
        service = start(**way_to(database), data_dir=data_dir, **settings).until_ready()
        workers = int(str(settings.get("workers", 1)))
        if workers > 1:
            until_heard(service, workers)
        return service

    return begin


@pytest.fixture(scope="module")
def service(
    service_database: URL, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with all its parts, for all tests of a module."""
    folder = tmp_path_factory.mktemp("service")
    with serving(folder, service_database, data_dir=trained_model, max_body_bytes=4096) as service:
        yield service


@pytest.fixture(scope="module")
def strict(
    service_database: URL, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service that has little patience."""
    with serving(
        tmp_path_factory.mktemp("strict"),
        service_database,
        data_dir=trained_model,
        header_timeout=SECONDS,
        body_timeout=SECONDS,
        keep_alive_timeout=2,
        max_header_bytes=MOST_HEADER_BYTES,
        max_body_bytes=MEGABYTE,
        database_lock_timeout=30,
        database_command_timeout=30,
    ) as service:
        yield service
