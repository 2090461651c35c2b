"""A checkout of this project on Windows, where git may be set to write CRLF."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="this is no checkout"
)
def test_checkout_with_autocrlf_has_scripts_that_run_in_the_image(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    options = ["-c", "core.autocrlf=true", "-c", "safe.directory=*"]
    subprocess.run(["git", *options, "clone", "--quiet", *options[:2], ROOT, copy], check=True)
    scripts = [*copy.glob("deploy/*"), *copy.glob(".ci/*"), copy / "Makefile"]
    assert len(scripts) > 3
    assert [script.name for script in scripts if b"\r\n" in script.read_bytes()] == []
