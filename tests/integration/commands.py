"""The project's programs as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import URL
from tests.conftest import way_to

ROOT = Path(__file__).parents[2]


def environment(url: URL, **changes: str) -> dict[str, str]:
    """This process's environment, with a database and other changes."""
    way = {f"IRIS_{name.upper()}": str(value) for name, value in way_to(url).items()}
    return os.environ | way | changes


def start(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """Start a module of Python with what it says captured."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    """Run a module of Python to its good end, and return what it said."""
    process = start(*arguments, env=env, cwd=cwd)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output
