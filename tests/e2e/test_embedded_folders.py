"""Where the embedded PostgreSQL's programs, data and socket may be, and whose they may be."""

import asyncio
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.conftest import Start, copy_data_dir
from tests.e2e.stopping import ask
from tests.support.service import environment

from iris_api.database.health import ping
from iris_api.database.session import session_scope
from iris_api.embedded.postgres import EmbeddedPostgres, find_binaries, provide_database
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
NO_SETPCAP = ["setpriv", "--inh-caps=-setpcap", "--bounding-set=-setpcap"]


def connects(data_dir: Path) -> bool:
    """Whether a server starts on this data directory, and the service's own session reaches it."""

    async def connect(settings: Settings) -> None:
        async with session_scope(settings) as session:
            await ping(session)

    with provide_database(Settings(data_dir=data_dir)) as settings:
        asyncio.run(connect(settings))
    return True


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


@pytest.mark.parametrize(
    "name",
    ["Smith, J", "a:b", "a b", "a%2Fb", "a?b=c&d", "a#b", "a@b", "'\"", "\\", "Łukasz", "x" * 99],
)
def test_provide_database_in_a_folder_with_a_special_name_connects(
    embedded_template: Path, tmp_path: Path, name: str
) -> None:
    assert connects(copy_data_dir(embedded_template, tmp_path / name))


def make_symlink(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def make_dangling_symlink(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "none")


def make_open(place: Path, _victim: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def make_file(place: Path, _victim: Path) -> None:
    place.touch(mode=0o600)


def make_folder_of_another_user(place: Path, _victim: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, pwd.getpwnam("nobody").pw_uid, -1)


@pytest.mark.parametrize(
    "make",
    [
        make_symlink,
        make_dangling_symlink,
        make_open,
        make_file,
        pytest.param(make_folder_of_another_user, marks=AS_ROOT),
    ],
)
def test_provide_database_refuses_a_socket_folder_that_is_not_of_this_user_alone(
    embedded_template: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """The data directory's path is too long for a socket; /tmp is open to all users."""
    data_dir = copy_data_dir(embedded_template, tmp_path / ("x" * 99))
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    before = victim.stat()
    place = EmbeddedPostgres(data_dir / "postgres").socket_dir
    make(place, victim)
    try:
        with pytest.raises(ConfigurationError, match=rf"{place}: .*Remove that.* IRIS_DATA_DIR"):
            connects(data_dir)
    finally:
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    assert victim.stat() == before
    assert connects(data_dir)
    assert not place.exists()


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
