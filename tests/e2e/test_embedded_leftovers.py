"""What an earlier embedded PostgreSQL leaves behind does not keep the next one from starting."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import product
from pathlib import Path

import pytest
from tests.e2e.conftest import Start, copy_data_dir
from tests.e2e.stopping import WORKERS
from tests.support.processes import command_of, exists, send
from tests.support.service import is_alive, poll_until, postmaster_of

from iris_api.embedded.postgres import EmbeddedPostgres, provide_database
from iris_api.embedded.privileges import as_ordinary_user
from iris_api.settings import Settings

LOCK_FILES = ("postmaster.pid", ".s.PGSQL.5432.lock")
_PR_SET_CHILD_SUBREAPER = 36  # of Linux' prctl.h
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def used(embedded_dir: Path) -> Path:
    """A data directory whose server has run, and has ended as it should."""
    return embedded_dir


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a program as the user that PostgreSQL runs as."""
    with ExitStack() as stack:

        def spawn(*command: str) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen([*as_ordinary_user(), *command], stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            poll_until(
                lambda: command_of(process.pid).startswith(command[0]) or not is_alive(process.pid),
                "the program has taken setpriv's place",
            )
            return process

        yield spawn


def starts(data_dir: Path) -> bool:
    """Whether a server starts on this data directory, and runs as long as it is wanted."""
    with provide_database(Settings(data_dir=data_dir)):
        pid = postmaster_of(data_dir)
        assert is_alive(pid)
    return not is_alive(pid)


def until_zombie(pid: int) -> None:
    """Return when this process has ended, and still waits for its parent."""
    poll_until(lambda: not is_alive(pid), "it has ended")
    assert exists(pid)


def lock_file_content(pid: int, data_dir: Path) -> str:
    """All that PostgreSQL itself would have written but the shared memory."""
    folder = data_dir / "postgres"
    return f"{pid}\n{folder}\n1700000000\n5432\n{folder}\n\n"


@pytest.fixture
def _orphans_stay_zombies() -> Iterator[None]:
    """Have orphans become this process's own children, who does not reap them before the end.

    So does the first process of many a container; others take up to a second for it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


@pytest.mark.usefixtures("_orphans_stay_zombies")
@WORKERS
def test_serve_right_after_a_sigkill_of_service_and_embedded_postgresql_is_ready(
    used: Path, start: Start, workers: int
) -> None:
    service = start(data_dir=used, workers=workers).until_ready()
    for _ in range(2):
        postmaster = postmaster_of(used)
        os.kill(postmaster, signal.SIGSTOP)  # else it would end by itself before it is killed
        os.killpg(service.process.pid, signal.SIGKILL)
        service.wait()  # which would have reaped the other
        os.kill(postmaster, signal.SIGKILL)
        until_zombie(postmaster)
        service = start(data_dir=used, workers=workers).until_ready()
    assert service.stop() == 0


@pytest.mark.parametrize("name", LOCK_FILES)
def test_embedded_postgresql_starts_with_a_lock_file_of_another_live_process(
    used: Path, spawn: Spawn, name: str
) -> None:
    other = spawn("sleep", "60")
    (used / "postgres" / name).write_text(lock_file_content(other.pid, used))
    assert starts(used)
    assert other.poll() is None


@pytest.mark.parametrize("name", LOCK_FILES)
def test_embedded_postgresql_starts_with_a_lock_file_of_a_program_on_the_same_folder(
    used: Path, spawn: Spawn, name: str
) -> None:
    """It is none of PostgreSQL's, though the folder is among its arguments."""
    other = spawn("tail", "-f", "/dev/null", str(used / "postgres"))
    (used / "postgres" / name).write_text(lock_file_content(other.pid, used))
    assert starts(used)
    assert other.poll() is None


@pytest.mark.parametrize("name", LOCK_FILES)
def test_embedded_postgresql_starts_with_a_lock_file_of_a_zombie(
    used: Path, spawn: Spawn, name: str
) -> None:
    zombie = spawn("true")
    until_zombie(zombie.pid)
    (used / "postgres" / name).write_text(lock_file_content(zombie.pid, used))
    assert starts(used)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *product(LOCK_FILES, ["", "\0" * 40, "postmaster\n"]),
        *product(LOCK_FILES[:1], ["\n", "0\n", "-\n", "99999999999\n", "4194303\n", "9" * 5000]),
    ],
)
def test_embedded_postgresql_starts_with_a_corrupt_lock_file(
    used: Path, name: str, content: str
) -> None:
    (used / "postgres" / name).write_text(content)
    assert starts(used)


def test_embedded_postgresql_starts_with_a_stale_socket_in_a_separate_folder(
    embedded_template: Path, tmp_path: Path, spawn: Spawn
) -> None:
    """Where the data directory's path is too long for a socket, it is in a short one."""
    deep = copy_data_dir(embedded_template, tmp_path / ("x" * 100))
    assert starts(deep)
    socket_dir = EmbeddedPostgres(deep / "postgres").socket_dir
    assert socket_dir != deep / "postgres"
    socket_dir.mkdir(mode=0o700)
    other = spawn("sleep", "60")
    (socket_dir / LOCK_FILES[1]).write_text(lock_file_content(other.pid, deep))
    (socket_dir / ".s.PGSQL.5432").touch()
    assert starts(deep)
    assert not socket_dir.exists()


def test_embedded_postgresql_start_ends_an_orphaned_postmaster(used: Path) -> None:
    """As setpriv would have ended it with its owner; it is not there on every system."""
    server = EmbeddedPostgres(used / "postgres")
    command = server._command()
    with server.log.open("ab") as log:
        orphan = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        poll_until(server.is_ready, "the orphan is ready")
        said: list[str] = []
        with provide_database(Settings(data_dir=used), report=said.append):
            assert not is_alive(orphan.pid)
            assert postmaster_of(used) != orphan.pid
        assert "Ending the PostgreSQL that an earlier run left behind" in said
    finally:
        with suppress(ProcessLookupError):
            send(signal.SIGKILL, [orphan.pid])
        orphan.wait()
