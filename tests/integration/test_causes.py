"""What PostgreSQL, its driver or the system said is in the log, and its advice in the answer."""

import asyncio
import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import URL
from tests.conftest import execute, settings_for
from tests.integration.repeats import EITHER, ask
from tests.integration.states import PARTS, checks
from tests.integration.trouble import running_unpooled
from tests.support.application import assert_problem, count_rows, running
from tests.support.flowers import SETOSA

from iris_api.database import causes
from iris_api.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"
ROLE = "iris_limited"


@pytest.fixture(autouse=True)
def _no_cause_was_logged_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes, "_logged", {})


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """The log's lines of this test, whatever other tests have configured."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def failures(lines: list[Any]) -> list[Any]:
    """The lines of causes, so far; those are forgotten."""
    found = [line for line in lines if line["event"] == "database_failure"]
    lines.clear()
    return found


@pytest.fixture
def limited(database: URL, data_dir: Path) -> Iterator[Settings]:
    """A service whose role has what docs/postgresql.md says, and no more."""
    [grants] = re.findall(r"```sql\n(GRANT .*?)```", PAGE.read_text(), re.DOTALL)
    execute(database, f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret-word'")
    try:
        execute(database, grants.replace(" iris;", f" {ROLE};"))
        url = database.set(username=ROLE, password="secret-word")  # noqa: S106, no secret
        yield settings_for(url, data_dir, database_pgbouncer=False).model_copy(
            update={"database_url": Settings(database_url=url_text(url)).database_url}
        )
    finally:
        execute(database, f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def url_text(url: URL) -> Any:
    return url.render_as_string(hide_password=False)


async def test_predict_predictions_and_readyz_with_the_documented_grants_are_200(
    limited: Settings,
) -> None:
    async with running(limited) as client:
        assert await checks(client) == dict.fromkeys(PARTS, "ok")
        for path, body in (("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA] * 2})):
            for key in (None, "mine" + path, "mine" + path):
                assert (await ask(client, key, body, path)).status_code == 200
        assert len((await client.get("/predictions")).json()["items"]) == 6
        assert_problem(await client.get("/predictions/17"), 404, "prediction-not-found")


REVOKED = [
    ("UPDATE", "idempotency_keys"),
    ("INSERT", "idempotency_keys"),
    ("SELECT", "idempotency_keys"),
    ("INSERT", "iris_predictions"),
    ("SELECT", "iris_predictions"),
    ("SELECT", "clients"),
    ("INSERT", "clients"),
    ("SELECT", "models"),
    ("INSERT", "models"),
    ("UPDATE", "models"),
    ("SELECT", "alembic_version"),
]


@pytest.mark.parametrize(("privilege", "of"), REVOKED)
async def test_readyz_without_a_privilege_is_503_and_logs_permission_denied(
    limited: Settings,
    database: URL,
    privilege: str,
    of: str,
    logged: list[Any],
) -> None:
    revoke = f"REVOKE {privilege} ON {of} FROM {ROLE}"
    await asyncio.to_thread(execute, database, revoke)
    async with running(limited) as client:
        detail = assert_problem(await client.get("/readyz"), 503, "not-ready")["detail"]
        assert "Grant the role of IRIS_DATABASE_URL" in detail
        [line] = failures(logged)
        assert line["sqlstate"] == "42501"
        assert "permission denied" in line["message"]


@EITHER
async def test_predict_without_update_on_idempotency_keys_is_503_and_names_the_grant(
    limited: Settings,
    database: URL,
    connection: asyncpg.Connection,
    path: str,
    body: Any,
    rows: int,
    logged: list[Any],
) -> None:
    async with running(limited) as client:
        assert (await ask(client, "mine", body, path)).status_code == 200
        revoke = f"REVOKE UPDATE ON idempotency_keys FROM {ROLE}"
        await asyncio.to_thread(execute, database, revoke)
        detail = assert_problem(await ask(client, "mine", body, path), 503, "outcome-unknown")[
            "detail"
        ]
        assert "Grant the role of IRIS_DATABASE_URL" in detail
        [line] = failures(logged)
        assert line["problem"] == "outcome-unknown"
        assert line["message"] == "permission denied for table idempotency_keys"
    assert await count_rows(connection) == rows


POLICY = """
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY reading ON {table} FOR SELECT USING (true);
    CREATE POLICY changing ON {table} FOR UPDATE USING (true);
    CREATE POLICY adding ON {table} FOR INSERT WITH CHECK ({check});
"""


@pytest.mark.parametrize(
    ("table", "check"),
    [("iris_predictions", "petal_width < 2"), ("idempotency_keys", "key <> 'mine'")],
)
async def test_predict_refused_by_row_level_security_stores_nothing_and_names_the_policy(
    limited: Settings,
    connection: asyncpg.Connection,
    table: str,
    check: str,
    logged: list[Any],
) -> None:
    await connection.execute(POLICY.format(table=table, check=check))
    flower = {**SETOSA, "petal_width": 2.5}
    async with running(limited) as client:
        refused = [
            await ask(client, "mine", flower),
            await ask(client, "mine", {"items": [flower] * 2}, "/predict/batch"),
        ]
        for response in refused:
            assert response.status_code in {500, 503}
            assert "policy" in response.json()["detail"] or "policies" in response.json()["detail"]
        assert await count_rows(connection) == 0
        assert {line["sqlstate"] for line in failures(logged)} <= {"42501", "0A000"}
        assert (await ask(client, None)).status_code == 200


async def test_log_cause_of_equal_causes_writes_one_line_with_a_count(
    client: AsyncClient,
    connection: asyncpg.Connection,
    logged: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse = "ALTER TABLE iris_predictions ADD CONSTRAINT small CHECK (petal_width < 2) NOT VALID"
    await connection.execute(refuse)
    flower = {**SETOSA, "petal_width": 2.0625}
    for _ in range(5):
        body = assert_problem(await ask(client, None, flower), 500, "not-stored")
        assert "constraint small" in body["detail"]
    [line] = failures(logged)
    assert line["constraint"] == "small"
    assert line["sqlstate"] == "23514"
    assert line["error"] == "CheckViolationError"
    assert line["unlogged"] == 0
    assert "2.0625" not in json.dumps(line)
    monkeypatch.setattr(causes, "_SECONDS_BETWEEN_LINES", 0)
    await ask(client, None, flower)
    [line] = failures(logged)
    assert line["unlogged"] == 4


async def test_predict_without_free_file_descriptors_is_503_and_names_ulimit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    async def connect(*_args: object, **_kwargs: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    async with running(settings) as client:
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg, "connect", connect)
            body = assert_problem(await ask(client, None), 503, "database-unavailable")
        assert "ulimit -n" in body["detail"]
        assert "Nothing was stored." in body["detail"]
        [line] = failures(logged)
        assert line["errno"] == errno.EMFILE


async def test_predict_while_nobody_listens_logs_the_address_and_does_not_answer_it(
    settings: Settings, logged: list[Any], tmp_path: Path
) -> None:
    url = Settings(database_url=SecretStr(f"postgresql://iris@/iris?host={tmp_path}")).database_url
    async with running(settings.model_copy(update={"database_url": url})) as client:
        for response in (await ask(client, None), await client.get("/readyz")):
            assert "cannot be reached: No such file or directory" in response.text
            assert str(tmp_path) not in response.text
    assert {line["address"] for line in failures(logged)} == {f"{tmp_path}/.s.PGSQL.5432"}


@pytest.mark.parametrize("path", ["/predictions", "/predictions/1", "/readyz", "/predict"])
async def test_routes_after_an_alter_table_are_200(
    settings: Settings, database: URL, connection: asyncpg.Connection, path: str
) -> None:
    """A newer release may alter it; a statement that was prepared before is prepared anew."""
    async with running_unpooled(settings, database) as (_, client):
        first = (await client.post("/predict", json=SETOSA)).json()
        path = path.replace("1", str(first["id"]))
        for kind in ("bigint", "integer", "bigint"):
            for _ in range(2):
                await get_or_predict(client, path)
            alter = f"ALTER TABLE iris_predictions ALTER prediction TYPE {kind}"
            await connection.execute(alter)
            await get_or_predict(client, path)


async def get_or_predict(client: AsyncClient, path: str) -> None:
    response = await (ask(client, None) if path == "/predict" else client.get(path))
    assert response.status_code == 200, response.text
