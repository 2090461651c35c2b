"""What an earlier embedded PostgreSQL has left in its folders, and how the next one gets past it.

PostgreSQL refuses to start where a lock file names a process that exists, whatever that process is:
a zombie, or another program that has the number by now. It also refuses a lock file that is empty
or unreadable, as a power loss leaves it. The caller holds the data folder's own lock, so a
server that still runs there is an orphan, and every lock file of a server that does not is stale.
"""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PORT = 5432
"""Of the socket's name; there is no other."""
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
    """End an orphan on this folder and remove stale lock files. Only for the lock's holder.

    A ``postmaster.pid`` whose process has ended stays: it names the shared memory, by which
    PostgreSQL notices backends of a killed server. Without Linux' /proc nothing tells an orphan
    from another program, so all is left to PostgreSQL.
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
    """Fast shutdown, then immediate, then SIGKILL, each if the one before was not enough."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if is_given_up() or not _is_postmaster(pid, folder):
                return
            time.sleep(0.02)


def _is_postmaster(pid: int, folder: Path) -> bool:
    """Whether this process is a server on this folder, and no zombie: those have no command line.

    A server's backends have other command lines.
    """
    try:
        program, *arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:  # no such process
        return False
    return program.endswith(b"postgres") and os.fsencode(folder) in arguments


def _recorded_pid(folder: Path) -> int | None:
    """The process that the lock file names; None where there is no file, or no number in it."""
    first, *_ = _pid_file_lines(folder) or [""]
    return abs(int(first)) or None if re.fullmatch("-?[0-9]{1,10}", first) else None


def _pid_file_lines(folder: Path) -> list[str]:
    try:
        text = (folder / _PID_FILE).read_text(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines()]
