"""A real server on a database of its own, for all fuzzing of a module."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import URL
from tests.conftest import dsn_of
from tests.fuzz.judging import Stored
from tests.support.service import Service, serving

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


@pytest.fixture(scope="module")
def stored(service_database: URL) -> Iterator[Stored]:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(dsn_of(service_database)))
        yield Stored(runner, connection)
        runner.run(connection.close())
