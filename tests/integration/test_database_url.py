"""What the parameters of a URL change at the server, and what they must not change."""

import asyncio

import asyncpg
from pydantic import SecretStr
from sqlalchemy import URL, text
from tests.conftest import execute
from tests.support.application import engine_of, running, started
from tests.support.flowers import SETOSA

from iris_api.database.migrations import head_revision, migrate
from iris_api.settings import Settings


def with_query(settings: Settings, database: URL, **query: str) -> Settings:
    """The settings of a service whose URL has these parameters, with no PgBouncer between."""
    url = database.update_query_dict(query).render_as_string(hide_password=False)
    changes = {"database_url": SecretStr(url), "database_pgbouncer": False}
    return settings.model_copy(update=changes)


async def test_database_url_with_the_parameters_of_a_hosted_database_predicts(
    settings: Settings, database: URL
) -> None:
    own = with_query(
        settings,
        database,
        application_name="mine",
        connect_timeout="10",
        channel_binding="prefer",
        target_session_attrs="read-write",
        gssencmode="disable",
        keepalives="1",
        keepalives_idle="30",
        client_encoding="utf8",
        options="-c search_path=public -c work_mem=5MB",
    )
    async with started(own) as app, engine_of(app).connect() as connection:
        for name, value in {
            "application_name": "mine",
            "search_path": "public",
            "work_mem": "5MB",
            "statement_timeout": "3s",
            "lock_timeout": "2s",
            "TimeZone": "UTC",
        }.items():
            assert await connection.scalar(text(f"SHOW {name}")) == value
    async with running(own) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


async def test_database_url_with_a_search_path_migrates_and_predicts_in_that_schema(
    settings: Settings, empty_database: URL
) -> None:
    await asyncio.to_thread(execute, empty_database, "CREATE SCHEMA mine")
    own = with_query(settings, empty_database, options="-c search_path=mine")
    assert await asyncio.to_thread(migrate, own) == head_revision()
    async with running(own) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    connection = await asyncpg.connect(
        empty_database.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        assert await connection.fetchval("SELECT count(*) FROM mine.iris_predictions") == 1
        assert await connection.fetchval("SELECT to_regclass('public.alembic_version')") is None
    finally:
        await connection.close()


async def test_database_url_with_user_and_dbname_as_parameters_predicts(
    settings: Settings, database: URL
) -> None:
    query = {"user": str(database.username), "dbname": str(database.database)}
    if database.password:
        query["password"] = database.password
    host = database.set(username="nobody_known", password=None, database="iris_nowhere")
    async with running(with_query(settings, host, **query)) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
