"""A real server on a database of its own, for all fuzzing of a module."""

from collections.abc import Iterator

import pytest
from sqlalchemy import URL
from tests.conftest import _database
from tests.e2e.service import Service

MAX_BODY_BYTES = 1_000_000


@pytest.fixture(scope="module")
def service_database(server_url: URL, template: str) -> Iterator[URL]:
    yield from _database(server_url, template)


@pytest.fixture(scope="module")
def service(
    service_database: URL, trained_model: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    service = Service.start(
        tmp_path_factory.mktemp("service"),
        database_url=service_database.render_as_string(hide_password=False),
        data_dir=trained_model,
        max_body_bytes=MAX_BODY_BYTES,
        log_level="WARNING",
    )
    try:
        yield service.until_ready()
        assert service.process.poll() is None, "it ended in the course of the tests"
        assert "Traceback" not in service.output + service.errors
    finally:
        service.clean_up()
