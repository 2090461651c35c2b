import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of a project's source."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project's source, which a test may spoil."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    return tmp_path


def test_lint_imports_of_the_source_breaks_no_contract() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("errors.py", "import iris_api.settings", "A package imports only from packages below it"),
        ("inference/engine.py", "import iris_api.api", "A package imports only from packages"),
        ("server/supervisor.py", "import iris_api.server.run", "Within the server package"),
        ("database/models.py", "import iris_api.database.crud", "Within the database package"),
        ("inference/loading.py", "import iris_api.inference.engine", "Within the inference"),
        ("inference/classifier.py", "import fastapi", "Inference knows neither FastAPI nor"),
    ],
)
def test_lint_imports_with_a_forbidden_import_reports_the_broken_contract(
    copy: Path, file: str, statement: str, contract: str
) -> None:
    path = copy / "src" / "iris_api" / file
    path.write_text(f"{path.read_text()}\n{statement}\n")
    result = lint_imports(copy)
    assert result.returncode == 1
    [broken] = [line for line in result.stdout.splitlines() if line.endswith(" BROKEN")]
    assert broken.startswith(contract)
