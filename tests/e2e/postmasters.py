"""The first process of a service's embedded PostgreSQL, which tests kill."""

import os
import signal
from pathlib import Path

from tests.support.service import is_alive, poll_until, postmaster_of


def kill_postmaster(data_dir: Path) -> int:
    """SIGKILL to the server that runs on this data directory, as the OOM killer does."""
    pid = postmaster_of(data_dir)
    os.kill(pid, signal.SIGKILL)
    return pid


def until_another_is_ready(data_dir: Path, before: int) -> int:
    """Return the process of the server that has come in place of the one ``before``."""
    pid_file = data_dir / "postgres" / "postmaster.pid"

    def is_ready() -> bool:
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        return lines[:1] != [str(before)] and [line.strip() for line in lines[7:8]] == ["ready"]

    poll_until(is_ready, "another PostgreSQL is ready")
    pid = postmaster_of(data_dir)
    assert is_alive(pid)
    return pid
