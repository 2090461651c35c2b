"""`deploy/install.py`, by which the Makefile installs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "install.py"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package of one empty module."""
    path = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr(
            "tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1"
        )
        archive.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr("tiny-1.dist-info/RECORD", "")
    return path


def command(target: Path, *arguments: object) -> list[str]:
    options = ["--no-index", "--target", str(target)]
    return [sys.executable, str(SCRIPT), *options, *map(str, arguments)]


def test_install_without_a_terminal_installs_and_writes_a_few_lines(
    tmp_path: Path, wheel: Path
) -> None:
    result = subprocess.run(
        command(tmp_path / "target", wheel), capture_output=True, text=True, check=True
    )
    assert (tmp_path / "target" / "tiny.py").exists()
    first, *_, last = result.stdout.splitlines()
    assert first.startswith("Installing: asking for packages (")
    assert last.startswith("Installed 1 packages (")
    assert result.stderr == ""


def test_install_at_a_terminal_moves_one_line(tmp_path: Path, wheel: Path) -> None:
    main, terminal = os.openpty()
    with os.fdopen(main, "rb") as output:
        subprocess.run(command(tmp_path / "target", wheel), stdout=terminal, check=True)
        os.close(terminal)
        shown = os.read(output.fileno(), 65536).decode()
    assert shown.startswith("\r\x1b[KInstalling: ")
    assert shown.count("\n") == 1
    assert "Installed 1 packages (" in shown


def test_install_of_an_unknown_package_exits_with_pips_code_and_reason(tmp_path: Path) -> None:
    result = subprocess.run(
        command(tmp_path / "target", "tiny"), capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "No matching distribution found for tiny" in result.stderr
