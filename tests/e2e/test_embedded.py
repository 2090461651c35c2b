import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import execute
from tests.e2e.conftest import Start
from tests.support.flowers import SETOSA
from tests.support.service import (
    assert_one_clear_sentence,
    is_alive,
    poll_until,
    postmaster_of,
    run,
)

from iris_api.embedded.postgres import EmbeddedPostgres


async def test_serve_prepares_everything_at_the_first_start_and_reuses_it_at_the_second(
    start: Start, folder: Path
) -> None:
    data_dir = folder / ".iris"
    service = start(log_format="console").until_ready()
    curl = service.until_printed(r"(?s)  (curl \S+/predict .+?')\n  curl ")[1]
    assert service.until_printed(r"Ready on (\S+)")[1] == service.url
    assert ".iris/postgres" in service.output
    assert "Training" in service.output
    assert "Ctrl-C stops all of it." in service.output
    first_postmaster = postmaster_of(data_dir)

    answer = subprocess.run(  # noqa: ASYNC221, nothing else runs on this loop
        ["bash", "-c", f"{curl} --silent --show-error --fail"],
        capture_output=True,
        text=True,
        check=True,
    )
    prediction = json.loads(answer.stdout)
    assert prediction["prediction_label"] == "setosa"

    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    service = start(log_format="console").until_ready()
    service.until_printed("Ready on")
    assert "Training" not in service.output
    assert not is_alive(first_postmaster)
    async with service.client() as client:
        assert (await client.get("/predictions")).json()["items"] == [
            {**prediction, **SETOSA, "reference": None}
        ]
        assert (await client.post("/predict", json=SETOSA)).status_code == 200

    second_postmaster = postmaster_of(data_dir)
    assert is_alive(second_postmaster)
    assert service.stop(signal.SIGTERM) == 0
    assert not is_alive(second_postmaster)
    service.leaves_nothing()
    assert "Traceback" not in service.errors


async def test_serve_on_a_data_directory_in_use_exits_while_migrate_and_train_work(
    start: Start, folder: Path, embedded_dir: Path
) -> None:
    first = start(data_dir=embedded_dir).until_ready()
    async with first.client() as client:
        version = (await client.get("/model")).json()["version"]

    second = start(data_dir=embedded_dir)
    assert second.wait() == 1
    assert_one_clear_sentence(second.errors, str(embedded_dir), "IRIS_DATA_DIR")
    assert second.output == ""

    migrated = run(folder, "migrate", data_dir=embedded_dir)
    assert migrated.returncode == 0, migrated.stderr
    assert "revision" in migrated.stderr
    trained = run(folder, "train", "--candidate", "linear-discriminant", data_dir=embedded_dir)
    assert trained.returncode == 0, trained.stderr
    assert "A service that runs already takes it when it is restarted" in trained.stderr

    async with first.client() as client:
        assert (await client.post("/predict", json=SETOSA)).json()["model_version"] == version
        refuse = "ALTER TABLE iris_predictions ADD CHECK (sepal_width < 1) NOT VALID"
        server = EmbeddedPostgres(embedded_dir / "postgres")
        await asyncio.to_thread(execute, server.url, refuse)
        refused = await client.post("/predict", json={**SETOSA, "sepal_width": 3.0625})
        assert refused.status_code == 500
    assert "check constraint" in server.log.read_text()
    assert "3.0625" not in server.log.read_text()
    postmaster = postmaster_of(embedded_dir)
    assert first.stop(signal.SIGINT) == 0
    assert not is_alive(postmaster)
    first.leaves_nothing()
    assert not (embedded_dir / "postgres" / "postmaster.pid").exists()


def test_serve_at_sigterm_during_its_start_leaves_no_process(start: Start, data_dir: Path) -> None:
    """It comes when PostgreSQL starts, the schema is looked at, the service begins."""
    pid_file = data_dir / "postgres" / "postmaster.pid"
    for seconds in (0, 0.03, 0.06, 0.1, 0.2, 0.4):
        service = start(data_dir=data_dir)
        poll_until(lambda: pid_file.exists() and pid_file.read_text() != "", "PostgreSQL starts")
        postmaster = postmaster_of(data_dir)
        time.sleep(seconds)
        assert service.stop(signal.SIGTERM) == 0, service.errors
        assert not is_alive(postmaster)
        service.leaves_nothing()
