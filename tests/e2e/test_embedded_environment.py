"""libpq's variables mean nothing to the embedded PostgreSQL, nor to what connects to it."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Start, copy_data_dir
from tests.e2e.stopping import WORKERS, ask
from tests.support.service import Service, environment, run

from iris_api.database.health import ping
from iris_api.database.session import session_scope
from iris_api.embedded.postgres import EmbeddedPostgres, provide_database
from iris_api.settings import Settings

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "PGPORT": "6543",
    "PGHOST": "elsewhere.example",
    "PGHOSTADDR": "192.0.2.1",
    "PGUSER": "somebody",
    "PGDATABASE": "elsewhere",
    "PGPASSWORD": "hunter2",
    "PGPASSFILE": "/nonexistent/pgpass",
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/nonexistent/root.crt",
    "PGSSLCERT": "/nonexistent/postgresql.crt",
    "PGSSLNEGOTIATION": "direct",
    "PGTARGETSESSIONATTRS": "standby",
    "PGDATA": "/nonexistent/data",
    "PGSERVICE": "elsewhere",
    "PGSERVICEFILE": "/nonexistent/pg_service.conf",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGTZ": "Nowhere/Land",
    "PGDATESTYLE": "nonsense",
    "PGCLIENTENCODING": "nonsense",
    "PGGSSENCMODE": "require",
}
MISLEADING = [
    *(
        (name, ELSEWHERE[name])
        for name in (
            "PGPORT",
            "PGSSLMODE",
            "PGSSLNEGOTIATION",
            "PGTARGETSESSIONATTRS",
            "PGDATESTYLE",
            "PGCLIENTENCODING",
        )
    ),
    ("PGPORT", "5432,5433"),
    ("PGPORT", "abc"),
    ("PGPORT", "99999"),
    ("PGSSLMODE", "nonsense"),
    ("PGSSLNEGOTIATION", "nonsense"),
    ("PGTARGETSESSIONATTRS", "nonsense"),
    ("PGGSSLIB", "nonsense"),
]
"""Each of these alone is enough to mislead PostgreSQL's programs or asyncpg."""


async def answers(settings: Settings) -> bool:
    async with session_scope(settings) as session:
        await ping(session)
    return True


@pytest.mark.parametrize(("name", "value"), MISLEADING)
def test_provide_database_with_a_misleading_libpq_variable_starts_and_connects(
    monkeypatch: pytest.MonkeyPatch, used: Path, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with provide_database(Settings(data_dir=used)) as settings:
        assert asyncio.run(answers(settings))
    assert os.environ[name] == value


@pytest.fixture(scope="module")
def used(embedded_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose database is there, for all tests of this module."""
    return copy_data_dir(embedded_template, tmp_path_factory.mktemp("used") / "data")


@WORKERS
def test_serve_with_libpq_variables_works_and_keys_works_with_and_without_them(
    start: Start, folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The first start, by all of PostgreSQL's programs, included."""
    with monkeypatch.context() as serving:
        for name, value in ELSEWHERE.items():
            serving.setenv(name, value)
        service = start(data_dir=data_dir, workers=workers).until_ready()
        assert_keys_go_along(service, folder, data_dir)
    assert_keys_go_along(service, folder, data_dir)
    assert service.stop() == 0


def test_keys_with_pgport_works_beside_serve_without_it(
    start: Start, folder: Path, used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(data_dir=used).until_ready()
    for value in ("6543", "5432,5433", "abc"):
        monkeypatch.setenv("PGPORT", value)
        assert_keys_go_along(service, folder, used)
    assert service.stop() == 0


def assert_keys_go_along(service: Service, folder: Path, data_dir: Path) -> None:
    assert ask(service, "POST", "/predict").status == 200
    made = run(folder, "keys", "create", "--client", "me", data_dir=data_dir)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("iris_")


def test_alembic_with_libpq_variables_upgrades_the_embedded_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    for name, value in ELSEWHERE.items():
        monkeypatch.setenv(name, value)
    for arguments in (["upgrade", "head"], ["check"]):
        result = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            env=environment(data_dir=tmp_path / "data"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr


def test_embedded_postgresql_with_another_port_in_its_configuration_keeps_its_socket(
    embedded_dir: Path,
) -> None:
    configuration = embedded_dir / "postgres" / "postgresql.auto.conf"
    configuration.write_text(f"{configuration.read_text()}\nport = '6543'\n")
    with provide_database(Settings(data_dir=embedded_dir)) as settings:
        assert asyncio.run(answers(settings))
        assert (EmbeddedPostgres(embedded_dir / "postgres").socket_dir / ".s.PGSQL.5432").exists()
