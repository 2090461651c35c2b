"""The files through which several workers share their metrics.

prometheus_client maps them into memory and names them after a process identifier. Here, that is a
slot number. When a worker has ended, the next one takes over its slot, with the counts in its
files, so the number of files does not grow, however often workers end.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import count
from pathlib import Path

import prometheus_client.values
from prometheus_client import Metric, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable. `Metrics` are shared if it is set when they are made."""
_BYTES = {
    "counter": 2**19,
    "histogram": 2**19,
    "gauge_livesum": 2**12,
    "gauge_liveall": 2**15,
    "gauge_livemostrecent": 2**12,
}
"""The size of each file in bytes, enough for all label sets that can occur. A file that grows is
mapped anew without reserved disk space, and a write without space kills the process (SIGBUS)."""
PROCESS_ID = "iris_worker_process_id"
"""The gauge from which a worker learns the others' process ids."""
_locks: list[int] = []
"""File descriptors that hold this process's slot until it ends."""


def claim_files(folder: Path) -> None:
    """Keep the metrics that this process makes from now on in its own files in the folder.

    Raises `OSError` if the files cannot be created at their full size.
    """
    folder.mkdir(exist_ok=True)  # a temporary-file cleaner may have removed it
    slot = _claim_slot(folder)
    for kind, size in _BYTES.items():
        file = folder / f"{kind}_{slot}.db"
        _reserve(file, size)
        if kind.startswith("gauge"):  # the ended worker's no longer count
            with file.open("r+b") as gauges:
                gauges.write(bytes(size))
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # type: ignore[no-untyped-call]
        process_identifier=lambda: slot
    )


def share_nothing() -> None:
    """Keep the metrics that this process makes from now on in its own memory."""
    os.environ.pop(FOLDER_VARIABLE, None)
    prometheus_client.values.ValueClass = prometheus_client.values.MutexValue


def remove_folder() -> None:
    """Remove the folder, if the parent no longer can. Workers can still write to open files."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        shutil.rmtree(folder, ignore_errors=True)


def _claim_slot(folder: Path) -> int:
    """Lock and return the first free slot. The system releases it when the process ends."""
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
    """The values of all workers, including the counts, but not the gauges, of ended ones."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """Read all files but stale gauges, and empty files, which the library cannot read.

        Adds the ``process_*`` metrics of each worker, which no file holds. ``worker`` is its slot.
        """
        files = [
            entry.path
            for entry in os.scandir(self._path)
            if entry.name.endswith(".db") and _has_size(entry) and not _is_stale(Path(entry.path))
        ]
        metrics = list(self.merge(files))  # type: ignore[no-untyped-call]
        samples = [sample for metric in metrics for sample in metric.samples]
        for sample in samples:
            if "pid" in sample.labels:  # the library's name for it
                sample.labels["worker"] = sample.labels.pop("pid")
        process_ids = {
            sample.labels["worker"]: int(sample.value)
            for sample in samples
            if sample.name == PROCESS_ID
        }
        return [*metrics, *_metrics_of_processes(process_ids)]


def _metrics_of_processes(process_ids: Mapping[str, int]) -> Iterable[Metric]:
    """The ``process_*`` metrics of each worker; none where there is no ``/proc``."""
    metrics: dict[str, Metric] = {}
    for worker, process_id in process_ids.items():
        collector = ProcessCollector(pid=partial(str, process_id), registry=None)
        for one in collector.collect():
            metric = metrics.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            for sample in one.samples:
                metric.add_sample(sample.name, {"worker": worker}, sample.value)
    return metrics.values()


def _has_size(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.stat().st_size > 0
    except FileNotFoundError:
        return False


def _is_stale(file: Path) -> bool:
    """Whether the file holds the gauges of an ended worker."""
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
