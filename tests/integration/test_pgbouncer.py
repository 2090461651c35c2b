"""PgBouncer itself fails: it comes back, and so do the service's predictions."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.support.application import running
from tests.support.flowers import SETOSA
from tests.support.pgbouncer import PATH, PgBouncer

from iris_api.database.migrations import migrate
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

IS_INSTALLED = shutil.which("pgbouncer", path=PATH) is not None
pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="PgBouncer is not installed")


@pytest.fixture
def pooler(database: URL, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(database, tmp_path) as pooler:
        yield pooler


def settings_by(pooler: PgBouncer, settings: Settings, *, named: bool) -> Settings:
    """The settings of a service that goes by the pooler, and knows that it does where ``named``."""
    url = pooler.url.render_as_string(hide_password=False)
    changes = {"database_url": url, "database_pgbouncer": named}
    return Settings.model_validate({**settings.model_dump(), **changes})


async def test_readyz_and_migrate_with_an_undeclared_pgbouncer_fail_and_name_the_setting(
    settings: Settings, pooler: PgBouncer
) -> None:
    own = settings_by(pooler, settings, named=False)
    async with running(own) as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert "Set IRIS_DATABASE_PGBOUNCER=true." in response.json()["detail"]
    with pytest.raises(ConfigurationError, match="Set IRIS_DATABASE_PGBOUNCER=true"):
        await asyncio.to_thread(migrate, own)


async def test_predict_after_a_failure_of_pgbouncer_is_200_again(
    settings: Settings, pooler: PgBouncer
) -> None:
    async with running(settings_by(pooler, settings, named=True)) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        pooler.fail()
        async with asyncio.timeout(30):
            while (response := await client.post("/predict", json=SETOSA)).status_code != 200:
                assert response.status_code == 503
                await asyncio.sleep(0.05)
