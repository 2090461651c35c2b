"""Folders with little room."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_folder(folder: Path, size: str) -> Iterator[Path]:
    """A folder that holds this much, such as ``4m``; the test is skipped where none can be had."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    result = subprocess.run(mount, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"a small folder cannot be mounted here: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
