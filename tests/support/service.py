"""A real server process: how a test starts it, speaks to it, and is sure that it is gone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeAlias

import pytest
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import way_to
from tests.support import forkserver
from tests.support.ports import free_port

_PATIENCE = 90  # seconds; nothing here takes a tenth of it on an idle machine


def poll_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {_PATIENCE} s until {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:  # which reading may meet as well
        return False
    except FileNotFoundError:  # no such folder on this system, or ended just now
        return Path("/proc/self").exists() is False


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings: ``data_dir=...`` is IRIS_DATA_DIR."""
    ours = {f"IRIS_{name.upper()}": str(value) for name, value in settings.items()}
    return os.environ | {"PYTHONFAULTHANDLER": "1"} | ours  # a crash shows where it was


def postmaster_of(data_dir: Path) -> int:
    """The process of the embedded PostgreSQL that runs on this data directory."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


Process: TypeAlias = subprocess.Popen[bytes] | forkserver.Forked
Start: TypeAlias = Callable[..., Process]


def start_interpreter(
    *arguments: str,
    env: dict[str, str],
    cwd: Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
    before: Sequence[str] = (),
) -> Process:
    """Start ``iris-api``, by the program that stands ``before`` if there is one."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "iris_api", *arguments],
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


start_process: Start = forkserver.start if sys.platform == "linux" else start_interpreter
"""The fork server adopts orphans, which only Linux has a call for."""


@dataclass
class Service:
    """``iris-api serve`` as a process group of its own, its output in two files."""

    process: Process
    port: int
    output_file: Path
    errors_file: Path

    @classmethod
    def start(cls, folder: Path, *arguments: str, **settings: object) -> "Service":
        """Start it, with ``folder`` as the current one. Does not wait."""
        return cls._start(start_process, folder, *arguments, **settings)

    @classmethod
    def start_interpreter(cls, folder: Path, *arguments: str, **settings: object) -> "Service":
        """The same, in a new interpreter, with a real start's time and memory."""
        return cls._start(start_interpreter, folder, *arguments, **settings)

    @classmethod
    def _start(cls, start: Start, folder: Path, *arguments: str, **settings: object) -> "Service":
        port = int(str(settings.setdefault("port", free_port())))
        number = len(list(folder.glob("serve-*.out")))
        output_file, errors_file = folder / f"serve-{number}.out", folder / f"serve-{number}.err"
        with output_file.open("wb") as output, errors_file.open("wb") as errors:
            process = start(
                "serve",
                *arguments,
                env=environment(**settings),
                cwd=folder,
                stdout=output,
                stderr=errors,
            )
        return cls(process, port, output_file, errors_file)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def errors(self) -> str:
        return self.errors_file.read_text()

    def client(self) -> AsyncClient:
        return AsyncClient(base_url=self.url, timeout=60)

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the JSON of an answer, over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()

    def answers(self, path: str = "/readyz") -> bool:
        """Whether the path is answered with 200; fails where the process has ended."""
        assert self.process.poll() is None, f"it ended:\n{self.output}\n{self.errors}"
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def until_ready(self) -> "Service":
        poll_until(self.answers, "the service is ready")
        return self

    def until_printed(self, pattern: str) -> "re.Match[str]":
        poll_until(lambda: re.search(pattern, self.output) is not None, f"{pattern} is printed")
        match = re.search(pattern, self.output)
        assert match is not None
        return match

    def wait(self) -> int:
        """Wait for its end, and return its exit code; where it does not come, show where it is."""
        try:
            return self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            pytest.fail(f"it did not end:\n{self.output}\n{self.errors}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal to the one process, and return its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def leaves_nothing(self) -> None:
        """Fail where somebody is left of its process group, to which its workers belong."""
        poll_until(self._is_gone, "all of the service's processes have ended")

    def _is_gone(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def clean_up(self) -> None:
        """End what a test has left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@contextmanager
def serving(folder: Path, database: URL, **settings: object) -> Iterator[Service]:
    """A service on this database, ready, for the length of the block."""
    service = Service.start(folder, **way_to(database), **settings)
    try:
        yield service.until_ready()
    finally:
        service.clean_up()


def run(folder: Path, *arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run ``iris-api`` to its end."""
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = start_process(
            *arguments, env=environment(**settings), cwd=folder, stdout=output, stderr=errors
        )
        code = process.wait(_PATIENCE)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(
            process.args, code, output.read().decode(), errors.read().decode()
        )


def assert_one_clear_sentence(errors: str, *words: str) -> None:
    """What a failure that the user can mend says: a line that names what to do, and no trace."""
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
