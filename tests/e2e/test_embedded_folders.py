"""Where the embedded PostgreSQL's programs, data and socket may be, and whose they may be."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Start
from tests.e2e.stopping import ask
from tests.support.service import environment

from iris_api.embedded.postgres import find_binaries

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
NO_SETPCAP = ["setpriv", "--inh-caps=-setpcap", "--bounding-set=-setpcap"]


@AS_ROOT
def test_serve_with_programs_and_data_that_only_root_may_enter_predicts(
    start_interpreter: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a checkout in /root."""
    private = tmp_path / "root"
    private.mkdir(mode=0o700)
    wheel = find_binaries().parents[1]
    for folder in (wheel, wheel.with_suffix(".libs")):
        shutil.copytree(folder, private / folder.name, ignore=shutil.ignore_patterns("pginstall"))
    paths = [str(private), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    service = start_interpreter(data_dir=private / "data").until_ready()
    postmaster = (private / "data" / "postgres" / "postmaster.pid").read_text().split()[0]
    assert Path(f"/proc/{postmaster}/exe").resolve().is_relative_to(private)
    assert ask(service, "POST", "/predict").status == 200
    assert service.stop() == 0


@AS_ROOT
def test_migrate_as_root_without_the_capability_setpcap_works(folder: Path, tmp_path: Path) -> None:
    """As in a container that drops what it does not need."""
    if not all(parent.stat().st_mode & stat.S_IXOTH for parent in find_binaries().parents):
        pytest.skip("only root may enter PostgreSQL's folder")
    result = migrate_as(NO_SETPCAP, folder, tmp_path / "data")
    assert result.returncode == 0, result.stderr


def migrate_as(
    before: list[str], folder: Path, data_dir: Path
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*before, sys.executable, "-m", "iris_api", "migrate"],
        env=environment(data_dir=data_dir),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
