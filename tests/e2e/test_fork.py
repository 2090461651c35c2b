"""A fork for another tabular model, made by the steps of docs/fork.md alone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.support.service import Service, environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fork.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
MOST_CHANGED_LINES = 40
WINE = {"alcohol": 14.23, "magnesium": 127.0, "proline": 1065.0}
OTHER_WINE = {"alcohol": 12.1, "magnesium": 90.0, "proline": 400.0}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, changed as the page says."""
    tree = tmp_path_factory.mktemp("fork") / "tree"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks")
    shutil.copytree(ROOT, tree, ignore=ignored)
    subprocess.run(["git", "apply"], cwd=tree, input=BLOCKS["diff"], text=True, check=True)
    return tree


@pytest.fixture(scope="module")
def wines(
    tree: Path, service_database: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The fork's service, after the page's commands."""
    settings = {**way_to(service_database), "data_dir": tree / ".iris"}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COVERAGE")]:
            patch.delenv(name)  # what is measured is this project's code, not the copy's
        patch.setenv("PYTHONPATH", str(tree / "src"))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for command in COMMANDS:
            if not command.startswith("export ") and command != "iris-api serve":
                arguments = shlex.split(command)
                subprocess.run(arguments, cwd=tree, env=environment(**settings), check=True)
        service = Service.start_interpreter(tmp_path_factory.mktemp("wines"), **settings)
        try:
            yield service.until_ready()
        finally:
            service.clean_up()


def test_fork_changes_few_lines_of_src() -> None:
    added = re.findall(r"^\+(?!\+\+)", BLOCKS["diff"], re.MULTILINE)
    assert 0 < len(added) < MOST_CHANGED_LINES


async def test_fork_predicts_and_stores(wines: Service) -> None:
    async with wines.client() as client:
        response = await client.post("/predict", json=WINE)
        assert response.status_code == 200
        answer = response.json()
        assert answer["prediction_label"] == "north"
        assert list(answer["probabilities"]) == ["north", "south"]
        stored = (await client.get(f"/predictions/{answer['id']}")).json()
    assert stored == answer | WINE | {"reference": None}


async def test_fork_names_its_own_features_in_an_error(wines: Service) -> None:
    async with wines.client() as client:
        response = await client.post("/predict", json=WINE | {"alcohol": 101.0})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["alcohol"]


async def test_fork_stores_a_batch_and_lists_it(wines: Service) -> None:
    async with wines.client() as client:
        named = OTHER_WINE | {"reference": "a bottle"}
        response = await client.post("/predict/batch", json={"items": [WINE, named]})
        assert response.status_code == 200
        items = response.json()["items"]
        assert [item["prediction_label"] for item in items] == ["north", "south"]
        listed = (await client.get("/predictions?limit=2")).json()["items"]
    assert listed == [items[1] | named, items[0] | WINE | {"reference": None}]


async def test_fork_answers_a_repeated_request_with_the_stored_row(wines: Service) -> None:
    headers = {"Idempotency-Key": "a-bottle"}
    async with wines.client() as client:
        first = await client.post("/predict", json=WINE, headers=headers)
        again = await client.post("/predict", json=WINE, headers=headers)
        other = await client.post("/predict", json=OTHER_WINE, headers=headers)
    assert (first.status_code, again.content) == (200, first.content)
    assert other.status_code == 422


async def test_fork_describes_its_own_features(wines: Service) -> None:
    async with wines.client() as client:
        document = (await client.get("/openapi.json")).json()
        card = (await client.get("/model")).json()
    assert list(document["components"]["schemas"]["Features"]["properties"]) == list(WINE)
    example = document["paths"]["/predictions/{prediction_id}"]["get"]["responses"]["200"]
    stored = example["content"]["application/json"]["example"]
    assert list(stored["probabilities"]) == ["north", "south"]
    assert stored.items() >= WINE.items()
    assert [feature["name"] for feature in card["features"]] == list(WINE)
