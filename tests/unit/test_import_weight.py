"""What an import loads: a client, a command and a customer of the database need no classifier."""

import subprocess
import sys

import pytest

HEAVY = ("sklearn", "scipy", "joblib", "prometheus_client")
SERVER = ("fastapi", "starlette", "sqlalchemy", "asyncpg", "numpy", *HEAVY)


def loaded(program: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after this program."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("import iris_api.iris", SERVER),
        ("import iris_api.callers", SERVER),
        ("import iris_api.database", (*HEAVY, "fastapi")),
        ("import iris_api.cli", SERVER),
        ("import iris_api.cli.keys", (*HEAVY, "fastapi")),
        ("import iris_api.cli.migrate", (*HEAVY, "fastapi")),
        ("import iris_api.cli.serve", ("sklearn", "scipy", "joblib", "numpy")),
        ("import iris_api.cli.settings", (*SERVER, "rich.markdown")),
    ],
)
def test_import_of_an_iris_api_module_loads_no_unneeded_package(
    program: str, unwanted: tuple[str, ...]
) -> None:
    assert not loaded(program) & set(unwanted)
