"""Servers on one core, load and database on the other."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO

SERVER_CORE, LOAD_CORE = 0, 1
HOST = "127.0.0.1"
_READY_SECONDS = 60
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server process that listens on ``port``."""

    name: str
    pid: int
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers of each request to it."""

    def cpu_seconds(self) -> float:
        """User and system time of the process and its descendants."""
        return sum(_cpu_seconds(pid) for pid in [self.pid, *_descendants(self.pid)])

    def resident_bytes(self) -> int:
        """The process's resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024


@contextmanager
def uvicorn_server(
    name: str, factory: str, port: int, *, environment: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """Run an application under uvicorn, with the service's options: uvloop, httptools, no log."""
    command = [
        sys.executable, "-m", "uvicorn", factory, "--factory", "--host", HOST, "--port", str(port),
        "--loop", "uvloop", "--http", "httptools", "--ws", "none", "--no-access-log",
        "--no-server-header", "--no-proxy-headers", "--log-level", "warning",
    ]  # fmt: skip
    with _running(name, command, port, "/docs", environment, log) as server:
        yield server


@contextmanager
def iris_server(
    name: str,
    port: int,
    *,
    environment: Mapping[str, str],
    log: Path,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run the service itself, with its own settings and its log on."""
    command = [sys.executable, "-m", "iris_api", "serve"]
    environment = {**environment, "IRIS_PORT": str(port)}
    with _running(name, command, port, "/readyz", environment, log) as server:
        yield replace(server, headers=headers or {})


@contextmanager
def empty_server(
    name: str, port: int, *, environment: Mapping[str, str], log: Path
) -> Iterator[Server]:
    """Run the empty endpoint on the service's own server, with its settings."""
    command = [sys.executable, "-m", "benchmarks.own_server"]
    environment = {**environment, "IRIS_PORT": str(port)}
    with _running(name, command, port, "/docs", environment, log) as server:
        yield server


@contextmanager
def _running(
    name: str,
    command: list[str],
    port: int,
    ready_path: str,
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[Server]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output
        )
        try:
            pin(process.pid, SERVER_CORE)
            wait_until_answering(port, ready_path, process, log)
            yield Server(name, process.pid, port)
        finally:
            process.terminate()
            process.wait(30)


def pin(pid: int, core: int) -> None:
    """Keep a process, its threads and its descendants on one core."""
    for process in [pid, *_descendants(pid)]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})


def wait_until_answering(
    port: int, path: str, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    """Return when the response of ``path`` is 200."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise SystemExit(f"{path} on port {port} does not answer; {log} says why.")


def on_load_core(command: list[str], stdout: IO[bytes] | int | None = None) -> bytes:
    """Run a command on the load's core, and return what it prints."""
    result = subprocess.run(
        ["taskset", "--cpu-list", str(LOAD_CORE), *command], check=True, capture_output=True
    )
    return result.stdout


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
