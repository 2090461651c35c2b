import socket
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.support.flowers import SETOSA
from tests.support.service import poll_until, run


async def test_serve_with_a_database_url_is_not_ready_until_migrate_has_run(
    start: Start, folder: Path, data_dir: Path, empty_database: URL
) -> None:
    service = start(**way_to(empty_database), data_dir=data_dir, log_format="console")
    poll_until(lambda: service.answers("/livez"), "the service is alive")
    assert "`iris-api migrate`" in service.until_printed("is alive, but not ready: (.+)")[1]
    async with service.client() as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["checks"]["schema"]["status"] == "failed"
        assert (await client.post("/predict", json=SETOSA)).status_code == 503

        migrated = run(folder, "migrate", **way_to(empty_database), data_dir=data_dir)
        assert migrated.returncode == 0, migrated.stderr
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert not (data_dir / "postgres").exists()
    assert service.stop() == 0
    service.leaves_nothing()


def test_serve_prepare_while_postgresql_is_down_refuses_connections_until_sigterm(
    start: Start, data_dir: Path
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        url = f"postgresql://iris@127.0.0.1:{port}/iris"
        service = start("--prepare", database_url=url, data_dir=data_dir)
        poll_until(lambda: "Waiting up to 60 s" in service.errors, "it waits for PostgreSQL")
        assert f"PostgreSQL at 127.0.0.1:{port} cannot be reached" in service.errors
        with pytest.raises(ConnectionRefusedError):
            service.get("/livez")
        assert service.stop() == 0


async def test_serve_with_a_database_url_writes_no_warning(
    start: Start, data_dir: Path, database: URL
) -> None:
    service = start(**way_to(database), data_dir=data_dir).until_ready()
    assert '"level": "warning"' not in service.errors
    assert service.stop() == 0


async def test_serve_prepare_with_a_database_url_migrates_and_keeps_the_ml_model(
    start: Start, data_dir: Path, empty_database: URL
) -> None:
    settings = {**way_to(empty_database), "data_dir": data_dir, "log_format": "console"}
    service = start("--prepare", **settings).until_ready()
    service.until_printed("Ready on")
    assert "Ctrl-C stops the service, not the database." in service.output
    assert "Training" not in service.output, "there is a model"
    async with service.client() as client:
        answer = (await client.post("/predict", json=SETOSA)).json()
        assert answer["prediction_label"] == "setosa"
    assert not (data_dir / "postgres").exists()
    password = empty_database.password
    assert not password or f":{password}@" not in service.output + service.errors
