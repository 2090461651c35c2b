"""The files through which several workers share their metrics.

prometheus_client maps them into memory and names them after a process identifier. That is the
number of a slot here, which the next worker takes over, with the counts in its files, when its
worker has ended. So the files do not grow in number, however often workers end.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import prometheus_client.values
from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own. `Metrics` are shared where it is set when they are made."""
_BYTES = {"counter": 2**19, "histogram": 2**19, "gauge_livesum": 2**12}
"""Room in each file for all label sets that can occur: a file that grows is mapped anew, without
its space on the disk, and a write to a map without space kills the process (SIGBUS)."""
_locks: list[int] = []
"""Descriptors that hold this process's slot, to its end."""


def claim_files(folder: Path) -> None:
    """Have the metrics that this process makes from now on in files of its own in the folder.

    Raises `OSError` where the files, at their full size, cannot be had.
    """
    folder.mkdir(exist_ok=True)  # where it was tidied away since the parent has made it
    slot = _claim_slot(folder)
    for kind, size in _BYTES.items():
        _reserve(folder / f"{kind}_{slot}.db", size)
    with (folder / f"gauge_livesum_{slot}.db").open("r+b") as gauges:
        gauges.write(bytes(_BYTES["gauge_livesum"]))  # those of the worker that has ended are none
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: slot
    )


def share_nothing() -> None:
    """Have the metrics that this process makes from now on in its own memory."""
    os.environ.pop(FOLDER_VARIABLE, None)
    prometheus_client.values.ValueClass = prometheus_client.values.MutexValue


def remove_folder() -> None:
    """Remove the folder and its files, which go on to be written to; for when the parent cannot."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)


def _claim_slot(folder: Path) -> int:
    """The first slot that no living process has. The system gives it back at the process's end."""
    for slot in count():
        lock = os.open(folder / f"counter_{slot}.db", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            _locks.append(lock)
            return slot
    raise AssertionError("there is no last number")


def _reserve(file: Path, size: int) -> None:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


class AllWorkers(MultiProcessCollector):
    """The values of all workers: the counts of those that have ended, too, but not their gauges."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """Read all files; without those that have no size yet, which the library cannot read."""
        files = [
            entry.path
            for entry in os.scandir(self._path)
            if entry.name.endswith(".db") and _has_size(entry) and not _is_stale(Path(entry.path))
        ]
        return self.merge(files)  # type: ignore[no-untyped-call, no-any-return]


def _has_size(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.stat().st_size > 0
    except FileNotFoundError:
        return False


def _is_stale(file: Path) -> bool:
    """Whether it holds the gauges of a worker that has ended."""
    kind, _, slot = file.stem.rpartition("_")
    if not kind.startswith("gauge"):
        return False
    try:
        with file.with_name(f"counter_{slot}.db").open("rb") as counter:
            fcntl.flock(counter, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
