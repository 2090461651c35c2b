"""Removes what an earlier embedded PostgreSQL left behind and the next one would not start with.

PostgreSQL does not start if a lock file names an existing process, even a zombie, or another
program that has reused the pid. Nor does it start if a lock file is empty or unreadable, as after a
power loss. The caller holds the data folder's own lock, so a server that still runs there is an
orphan, and the lock files of a server that does not run are stale.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PORT = 5432
"""Only a part of the socket's name: the server has no TCP port."""
SOCKET_NAME = f".s.PGSQL.{PORT}"
_PID_FILE = "postmaster.pid"
_STOP_SECONDS = 20
_PROC = Path("/proc")


def is_ready(folder: Path, pid: int | None = None) -> bool:
    """Whether a server on this folder takes connections; with ``pid``, whether that one does."""
    lines = _pid_file_lines(folder)
    return lines[7:8] == ["ready"] and (pid is None or lines[0] == str(pid))


def put_away(
    folder: Path,
    socket_dir: Path,
    *,
    report: Callable[[str], None],
    is_given_up: Callable[[], bool],
) -> None:
    """End an orphan on this folder and remove stale lock files. The caller must hold the lock.

    A ``postmaster.pid`` whose process has ended stays: it names the shared memory, by which
    PostgreSQL notices backends of a killed server. Without Linux' /proc, an orphan looks like any
    other program, so this does nothing.
    """
    if not (_PROC / "self").exists():
        return
    pid = _recorded_pid(folder)
    if pid is not None and _is_postmaster(pid, folder):
        report("Ending the PostgreSQL that an earlier run left behind")
        _end(pid, folder, is_given_up)
    if pid is None or (_PROC / str(pid)).exists():
        (folder / _PID_FILE).unlink(missing_ok=True)
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (socket_dir / name).unlink(missing_ok=True)


def _end(pid: int, folder: Path, is_given_up: Callable[[], bool]) -> None:
    """Try a fast shutdown, an immediate one, then SIGKILL, with `_STOP_SECONDS` for each."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if is_given_up() or not _is_postmaster(pid, folder):
                return
            time.sleep(0.02)


def _is_postmaster(pid: int, folder: Path) -> bool:
    """Whether this process is a server on this folder, by its command line.

    A zombie has no command line, and a server's backends have other ones.
    """
    try:
        program, *arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:  # no such process
        return False
    return program.endswith(b"postgres") and os.fsencode(folder) in arguments


def _recorded_pid(folder: Path) -> int | None:
    """The pid that the lock file names; None if there is no file, or no number in it."""
    first, *_ = _pid_file_lines(folder) or [""]
    return abs(int(first)) or None if re.fullmatch("-?[0-9]{1,10}", first) else None


def _pid_file_lines(folder: Path) -> list[str]:
    try:
        text = (folder / _PID_FILE).read_text(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]
