"""The commands of docs/embedded.md, as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start, copy_data_dir
from tests.e2e.stopping import ask

PAGE = Path(__file__).parents[2] / "docs" / "embedded.md"
COPY, GO_BACK, DUMP, RESTORE, MOVE = re.findall(r"```sh\n(.+?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def data_dir(embedded_template: Path, folder: Path) -> Path:
    """`.iris` of the folder that the commands run in, beside its `.venv`."""
    (folder / ".venv").symlink_to(sys.prefix)
    return copy_data_dir(embedded_template, folder / ".iris")


def shell(folder: Path, commands: str, **variables: str) -> None:
    result = subprocess.run(
        ["bash", "-euc", commands],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_cp_of_a_stopped_data_directory_brings_the_predictions_back(
    start: Start, folder: Path, data_dir: Path
) -> None:
    service = start(data_dir=data_dir).until_ready()
    assert ask(service, "POST", "/predict").status == 200
    stored = service.get("/predictions")
    assert service.stop() == 0
    shell(folder, COPY)
    service = start(data_dir=data_dir).until_ready()
    assert ask(service, "POST", "/predict").status == 200
    assert service.get("/predictions") != stored
    assert service.stop() == 0
    shell(folder, GO_BACK)
    service = start(data_dir=data_dir).until_ready()
    assert service.get("/predictions") == stored
    assert service.stop() == 0


def test_pg_dump_of_a_running_service_restores_into_it_and_into_another_postgresql(
    start: Start, folder: Path, data_dir: Path, empty_database: URL
) -> None:
    service = start(data_dir=data_dir).until_ready()
    assert ask(service, "POST", "/predict").status == 200
    stored = service.get("/predictions")
    shell(folder, DUMP)
    assert ask(service, "POST", "/predict").status == 200
    assert service.get("/predictions") != stored
    shell(folder, RESTORE)
    assert service.get("/predictions") == stored
    assert ask(service, "POST", "/predict").status == 200
    assert service.stop() == 0

    url = empty_database.set(drivername="postgresql").render_as_string(hide_password=False)
    shell(folder, MOVE, IRIS_DATABASE_URL=url)
    service = start(data_dir=data_dir, **way_to(empty_database)).until_ready()
    assert service.get("/predictions") == stored
    assert ask(service, "POST", "/predict").status == 200
