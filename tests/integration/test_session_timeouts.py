"""PostgreSQL itself bounds what the service asks of it, for when the service cannot any more."""

import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import DATABASE

from iris_api.database.driver_errors import sqlstate_of
from iris_api.settings import Settings

BOUNDS = {
    "statement_timeout": "3s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "3s",
    "client_connection_check_interval": "1s",
}
QUERY_CANCELED = "57014"


def test_settings_database_pgbouncer_matches_iris_test_database(settings: Settings) -> None:
    assert settings.database_pgbouncer == (DATABASE == "pgbouncer")


@pytest.mark.parametrize(("parameter", "value"), BOUNDS.items())
async def test_session_has_the_server_timeouts(
    session: AsyncSession, parameter: str, value: str
) -> None:
    """By the connection, or through PgBouncer by the role, as docs/pgbouncer.md says."""
    assert await session.scalar(text(f"SHOW {parameter}")) == value


async def test_session_with_a_statement_past_statement_timeout_is_canceled(
    session: AsyncSession,
) -> None:
    began = time.monotonic()
    with pytest.raises(DBAPIError) as raised:
        await session.execute(text("SELECT pg_sleep(60)"))
    assert sqlstate_of(raised.value) == QUERY_CANCELED
    assert "statement timeout" in str(raised.value)
    assert time.monotonic() - began < 30
