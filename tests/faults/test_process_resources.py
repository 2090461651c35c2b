"""What a process needs of the machine beside the database: a temporary folder, file descriptors."""

import errno
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.asking import LOST, OVERDUE, OVERLOADED, REFUSED, UNAVAILABLE, UNKNOWN
from tests.faults.beside import staying_alive
from tests.faults.conftest import OpenTrial
from tests.faults.scale import seconds
from tests.faults.trial import POOL
from tests.support.disks import small_folder
from tests.support.processes import send
from tests.support.service import poll_until
from tests.support.service_processes import workers_of
from tests.support.wire import PATIENCE, get
from tests.support.workers import ends_told

WORKERS = 2
START_SECONDS = 20
"""What a new process may take until it serves, on a machine at work."""
MOST_FILES = 128
CLIENTS = 220
NEW_LABELS = ["/predictions?limit=1", "/predictions?limit=x", "/nowhere", "/predictions/1", "/docs"]
"""Requests whose route or status none of a trial's other requests has."""


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Of 4 MiB: the files of the workers fit in."""
    with small_folder(tmp_path / "small", "4m") as folder:
        yield folder


def fill(folder: Path) -> None:
    """Leave no room in it."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017, it comes at the end of each


def test_workers_killed_with_a_full_temporary_folder_are_replaced(
    temporary: Path, open_trial: OpenTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = open_trial("temporary folder full")
    monkeypatch.setenv("TMPDIR", str(temporary))
    service = trial.serve(workers=WORKERS)
    killed: set[int] = set()
    with trial.load(service.port, beside=[staying_alive(service.port)]):
        for _ in trial.rounds(5, at_least=2):
            trial.until_stored(100)
            fill(temporary)
            for path in NEW_LABELS * 4:  # so that each worker gets some
                assert get(service.port, path).status < 500
            victim = trial.until_all_work(service, WORKERS)[0]
            began = time.monotonic()
            send(signal.SIGKILL, [victim])
            killed.add(victim)
            trial.until_stored(100)
            trial.note_recovery(since=began)
            trial.until_all_work(service, WORKERS)
            assert time.monotonic() - began < START_SECONDS
            assert get(service.port, "/metrics").status == 200
            assert {line["pid"] for line in ends_told(service)} == killed, "another has died"
            (temporary / "ballast").unlink()
    trial.conclude(service.port, LOST, backends=POOL * WORKERS)
    assert service.stop() == 0
    assert list(temporary.iterdir()) == []


def test_workers_killed_with_scarce_file_descriptors_are_replaced(open_trial: OpenTrial) -> None:
    trial = open_trial(f"{MOST_FILES} open files, workers killed")
    service = trial.start(workers=WORKERS)
    # In time: it raises its own limit, as far as this one, when it has imported the application.
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
    service.until_ready()
    with trial.load(service.port, clients=CLIENTS):
        for _ in trial.rounds(10, at_least=3):
            trial.until_stored(200)
            time.sleep(seconds(3, at_least=1))  # in which the clients take all descriptors
            killed = workers_of(service)
            began = time.monotonic()
            send(signal.SIGKILL, killed)
            poll_until(lambda: not set(killed) & set(workers_of(service)), "they are gone")  # noqa: B023
            trial.until_stored(100)
            trial.note_recovery(since=began, within=START_SECONDS)
    assert all(
        resource.prlimit(pid, resource.RLIMIT_NOFILE) == (MOST_FILES, MOST_FILES)
        for pid in workers_of(service)
    )
    trial.until_all_work(service, WORKERS)
    allowed = (LOST, REFUSED, UNAVAILABLE, OVERLOADED, OVERDUE, UNKNOWN)
    trial.conclude(service.port, *allowed, backends=POOL * WORKERS, worst=PATIENCE + 1)
    assert service.stop() == 0
