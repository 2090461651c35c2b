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
from tests.support.service import assert_one_clear_sentence, environment, run

from iris_api.database.health import ping
from iris_api.database.session import session_scope
from iris_api.embedded.postgres import EmbeddedPostgres, find_binaries, provide_database
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
NO_SETPCAP = ["setpriv", "--inh-caps=-setpcap", "--bounding-set=-setpcap"]
NO_CAPABILITIES = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
NAMESPACE_OF_ROOT_ALONE = ["unshare", "--user", "--map-root-user"]


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


def test_serve_on_a_copy_of_its_data_directory_has_the_same_predictions(
    start: Start, embedded_dir: Path, tmp_path: Path
) -> None:
    """A plain ``cp -r`` as root, which leaves the files to root, or a copy that others may read."""
    service = start(data_dir=embedded_dir).until_ready()
    assert ask(service, "POST", "/predict").status == 200
    stored = service.get("/predictions")
    assert service.stop() == 0
    subprocess.run(["cp", "-r", embedded_dir, tmp_path / "copy"], check=True)
    (tmp_path / "copy" / "postgres").chmod(0o755)
    service = start(data_dir=tmp_path / "copy").until_ready()
    assert service.get("/predictions") == stored
    assert service.stop() == 0
    assert (tmp_path / "copy" / "postgres").stat().st_mode & 0o777 == 0o700


@AS_ROOT
def test_migrate_on_a_database_of_another_user_says_how_to_take_it_and_changes_nothing(
    folder: Path, embedded_dir: Path
) -> None:
    database = embedded_dir / "postgres"
    os.chown(database, 12345, 12345)
    refused = run(folder, "migrate", data_dir=embedded_dir)
    assert refused.returncode == 1
    command = f"chown -R 0 {database}"
    assert_one_clear_sentence(refused.stderr, str(database), "12345", command, "IRIS_DATA_DIR")
    assert database.stat().st_uid == 12345
    subprocess.run(command.split(), check=True)
    assert run(folder, "migrate", data_dir=embedded_dir).returncode == 0


@AS_ROOT
def test_provide_database_as_root_gives_a_copied_folder_to_nobody_but_follows_no_symlink(
    embedded_dir: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    (embedded_dir / "postgres" / "link").symlink_to(outside)
    subprocess.run(["chown", "-R", "0:0", embedded_dir / "postgres"], check=True)
    assert connects(embedded_dir)
    nobody = pwd.getpwnam("nobody").pw_uid
    owners = {path.lstat().st_uid for path in (embedded_dir / "postgres").rglob("*")}
    assert owners == {nobody}
    assert outside.stat().st_uid == 0
    (embedded_dir / "postgres").rename(tmp_path / "elsewhere")
    os.chown(tmp_path / "elsewhere", 0, 0)
    (embedded_dir / "postgres").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="wrong ownership"):
        connects(embedded_dir)
    assert (tmp_path / "elsewhere").stat().st_uid == 0


@AS_ROOT
@pytest.mark.parametrize("before", [NO_CAPABILITIES, NAMESPACE_OF_ROOT_ALONE], ids=lambda it: it[0])
@pytest.mark.parametrize("copy", [None, "-a", "-r"])
def test_migrate_as_a_root_that_may_not_become_nobody_says_what_to_do(
    folder: Path, embedded_template: Path, tmp_path: Path, before: list[str], copy: str | None
) -> None:
    """At the first start, on nobody's files and on root's."""
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let root drop its rights so")
    if copy is not None:
        subprocess.run(["cp", copy, embedded_template, tmp_path / "data"], check=True)
    result = migrate_as(before, folder, tmp_path / "data")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    error = "error: " + result.stderr.partition("error: ")[2].partition("\n")[0]
    assert_one_clear_sentence(error, str(tmp_path / "data" / "postgres"), "IRIS_DATABASE_URL")


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
