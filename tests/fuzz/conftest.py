"""A real server on a database of its own, for all fuzzing of a module."""

from collections.abc import Iterator

import pytest
from sqlalchemy import URL
from tests.e2e.service import Service, serving

MAX_BODY_BYTES = 1_000_000


@pytest.fixture(scope="module")
def service(
    service_database: URL, trained_model: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with serving(
        tmp_path_factory.mktemp("service"),
        service_database,
        data_dir=trained_model,
        max_body_bytes=MAX_BODY_BYTES,
        log_level="WARNING",
    ) as service:
        yield service
        assert service.process.poll() is None, "it ended in the course of the tests"
        assert "Traceback" not in service.output + service.errors
