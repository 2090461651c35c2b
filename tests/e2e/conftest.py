"""Servers for the end-to-end tests, each ended with its test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.service import Service, serving
from tests.e2e.workers import until_heard

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
    started: list[Service] = []

    def start(*arguments: str, **settings: object) -> Service:
        service = Service.start(folder, *arguments, **settings)
        started.append(service)
        return service

    yield start
    for service in started:
        service.clean_up()


@pytest.fixture
def begin(start: Start, database: URL, data_dir: Path) -> Callable[..., Service]:
    """Starts a service with all its parts and these settings, and waits until it is ready."""

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
