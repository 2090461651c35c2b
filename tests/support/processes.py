"""What Linux tells about processes, and signals for some of them, always by their ids."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that this one has started and that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return found


def command_of(pid: int) -> str:
    """Its command line; empty where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def name_of(pid: int) -> str:
    """Its name, as ``ps -o comm`` shows it; empty where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def exists(pid: int) -> bool:
    """Whether it runs, or has ended and waits for its parent."""
    return Path(f"/proc/{pid}").exists()


def resident_bytes(pid: int) -> int:
    """Its resident memory."""
    return _status_bytes(pid, "VmRSS:")


def peak_bytes(pid: int) -> int:
    """The most memory that it had resident since `forget_peak`."""
    return _status_bytes(pid, "VmHWM:")


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to each; those that have ended meanwhile are past it."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_connected_to(pid: int, port: int) -> bool:
    """Whether it has an open connection to this port of 127.0.0.1."""
    with suppress(OSError):  # ended meanwhile
        links = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir()}
        return any(f"socket:[{inode}]" in links for inode in _inodes_to(port))
    return False


def unsent_bytes(port: int, to: int) -> int:
    """What has been written at this port of 127.0.0.1, and not been taken at the client's."""
    for line in _tcp():
        if line[1].endswith(f":{port:04X}") and line[2].endswith(f":{to:04X}"):
            return int(line[4].partition(":")[0], 16)
    return 0


def _inodes_to(port: int) -> list[str]:
    """Of the established connections to this port, as the client's side has them."""
    return [line[9] for line in _tcp() if line[2].endswith(f":{port:04X}") and line[3] == "01"]


def _tcp() -> list[list[str]]:
    """All connections of TCP, as proc(5) describes them."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
