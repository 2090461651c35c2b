"""The wheel, away from any checkout."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.support.service import environment

from iris_api.database.migrations import head_revision

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    offline = ["--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, "--wheel-dir", tmp_path, ROOT], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    return wheel


def test_wheel_contains_the_migrations_and_migrates_without_the_checkout(
    wheel: Path, empty_database: URL, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with ZipFile(wheel) as archive:
        archive.extractall(site)
    tops = {path.name for path in site.iterdir()}
    assert tops == {"iris_api", next(name for name in tops if name.endswith(".dist-info"))}
    assert (site / "iris_api" / "py.typed").exists()
    assert not list(site.rglob("__pycache__"))

    env = environment(**way_to(empty_database), log_format="console") | {"PYTHONPATH": str(site)}

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments],
            env=env,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = "import iris_api.database.migrations as it; print(it.alembic_config().get_main_option"
    assert run("-c", f"{where}('script_location'))").strip() == str(site / "iris_api/migrations")
    assert head_revision() in run("-m", "iris_api", "migrate")
    assert head_revision() in run("-m", "iris_api", "migrate")
    assert not list(elsewhere.iterdir())
