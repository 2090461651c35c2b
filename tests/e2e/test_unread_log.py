"""Whatever reads the log on standard error may stand still: the service does not wait for it."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.stopping import assert_ends
from tests.support.ends import a_pipe, a_socket, a_terminal
from tests.support.flowers import SETOSA
from tests.support.ports import free_port
from tests.support.processes import send
from tests.support.service import (
    Process,
    Service,
    environment,
    poll_until,
    start_interpreter,
    start_process,
)
from tests.support.service_processes import workers_of
from tests.support.workers import ends_told

LONG_PATH = "/" + "x" * 30_000
MANY = 60
"""Requests whose lines, of 30 kB each, fit into no pipe, and not into the queue before it."""
PATH_OF_ONE_WRITE = "/" + "x" * 3000
"""Its lines are below PIPE_BUF, so those of several workers do not mix."""
OF_ANOTHER_USER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
MAY_READ = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""For Python and the model may be in folders of root's alone."""
Ends = Callable[[], tuple[int, int]]
Serve = Callable[..., tuple[Service, int]]


@pytest.fixture
def serve(folder: Path, database: URL, data_dir: Path) -> Iterator[Serve]:
    """Starts a service, and returns it with the reader's end of its standard error."""
    started: list[tuple[Service, int]] = []

    def serve(
        ends: Ends,
        *before: str,
        until: str = "/readyz",
        **settings: object,
    ) -> tuple[Service, int]:
        port = free_port()
        reading, writing = ends()
        output_file = folder / "output"
        with output_file.open("wb") as output:
            process = start_service(
                before,
                writing,
                env=environment(
                    **way_to(database), data_dir=data_dir, port=port, log_format="json", **settings
                ),
                cwd=folder,
                stdout=output,
            )
        os.set_blocking(reading, False)
        service = Service(process, port, output_file, output_file)
        started.append((service, reading))
        poll_until(lambda: service.answers(until), "the service answers")
        return service, reading

    yield serve
    for service, reading in started:
        service.clean_up()
        os.close(reading)


def start_service(
    before: Sequence[str], writing: int, *, env: dict[str, str], cwd: Path, stdout: IO[bytes]
) -> Process:
    """Start it, by another program where one stands before, and close this process's end."""
    with os.fdopen(writing, "wb", buffering=0) as errors:
        start = partial(start_interpreter, before=before) if before else start_process
        return start("serve", env=env, cwd=cwd, stdout=stdout, stderr=errors)


async def fill(service: Service, path: str = LONG_PATH, requests: int = MANY) -> None:
    """Have more lines logged than wait anywhere, and each request answered."""
    async with asyncio.timeout(60), service.client() as client:
        for _ in range(requests):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/livez")).status_code == 200


def read_log(reading: int) -> str:
    """What there is to be read."""
    parts = []
    try:
        while part := os.read(reading, 2**16):
            parts.append(part)
    except (BlockingIOError, OSError):  # nothing just now, or a terminal's other end is closed
        pass
    return b"".join(parts).decode()


def until_told(reading: int, path: str = LONG_PATH, requests: int = MANY) -> list[dict[str, Any]]:
    """Read the log until each of so many requests is there, or is told to be lost."""
    text = ""

    def all_is_told() -> bool:
        nonlocal text
        text += read_log(reading)
        lines = lines_of(text)
        lost = sum(line["lines"] for line in lines if line["event"] == "log_lines_dropped")
        return text.endswith("\n") and path in text and lost + text.count(path) >= requests

    poll_until(all_is_told, "each line is there, or told to be dropped")
    return lines_of(text)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("ends", [a_pipe, a_socket, a_terminal])
async def test_serve_with_an_unread_log_responds_and_logs_how_many_lines_it_dropped(
    serve: Serve, ends: Ends
) -> None:
    service, reading = serve(ends)
    await fill(service)
    async with service.client() as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert any(line["event"] == "log_lines_dropped" for line in until_told(reading))
    assert service.stop() == 0
    service.leaves_nothing()


async def test_serve_with_workers_and_an_unread_log_logs_how_many_lines_it_dropped(
    serve: Serve,
) -> None:
    service, reading = serve(a_pipe, workers=2)
    requests = 1000  # 3 MB, so that one of them at least has more to log than 1 MB
    await fill(service, PATH_OF_ONE_WRITE, requests)
    lines = until_told(reading, PATH_OF_ONE_WRITE, requests)
    assert any(line["event"] == "log_lines_dropped" for line in lines)
    assert service.stop() == 0
    service.leaves_nothing()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
async def test_serve_with_an_unread_log_pipe_of_another_user_responds(serve: Serve) -> None:
    """As with supervisord's `user=`, or sudo: the service may not open the pipe anew."""
    service, reading = serve(a_pipe, *OF_ANOTHER_USER, *MAY_READ, until="/livez")
    assert os.stat(f"/proc/{service.process.pid}").st_uid == 54321  # noqa: PTH116, for ASYNC240
    await fill(service)
    lines = until_told(reading)
    assert any(line["event"] == "log_lines_dropped" for line in lines)
    assert service.stop() == 0


@pytest.mark.parametrize("ends", [a_pipe, a_socket, a_terminal])
@pytest.mark.parametrize("workers", [1, 2])
async def test_serve_with_an_unread_log_stops_within_the_shutdown_timeout(
    serve: Serve, ends: Ends, workers: int
) -> None:
    service, _ = serve(ends, workers=workers, shutdown_delay=0, shutdown_timeout=1)
    await fill(service)
    service.process.send_signal(signal.SIGTERM)
    assert_ends(service, 1 + 3)


async def test_serve_writes_its_last_log_lines_before_it_stops(serve: Serve) -> None:
    """What fits into the pipe is written though the process ends by a signal at once."""
    service, reading = serve(a_pipe, workers=2, shutdown_delay=0)
    async with service.client() as client:
        for number in range(20):
            assert (await client.get(f"/last/{number}")).status_code == 404
    assert service.stop() == 0
    paths = {line.get("path") for line in lines_of(read_log(reading))}
    assert paths >= {f"/last/{number}" for number in range(20)}


async def test_serve_continues_after_the_reader_of_its_log_is_gone(serve: Serve) -> None:
    service, reading = serve(a_pipe, workers=2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), reading)
    await fill(service)
    victim = workers_of(service)[0]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == 2, "it is replaced")
    assert service.stop() == 0


async def test_serve_continues_when_the_disk_of_its_log_is_full(serve: Serve) -> None:
    def full() -> tuple[int, int]:
        return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)

    service, _ = serve(full, workers=2)
    await fill(service)
    victim = workers_of(service)[0]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == 2, "it is replaced")
    await fill(service)
    assert service.stop() == 0


async def test_serve_without_standard_error_responds(serve: Serve) -> None:
    service, _ = serve(a_pipe, "sh", "-c", 'exec "$@" 2>&-', "sh", workers=2)
    await fill(service)
    assert service.stop() == 0


def test_worker_killed_by_a_signal_is_logged_with_its_exit_code_and_a_hint(
    begin: Callable[..., Service],
) -> None:
    service = begin(workers=2)
    for number, hint in ((signal.SIGKILL, "memory"), (signal.SIGBUS, "iris-metrics-")):
        before = len(ends_told(service))
        victim = workers_of(service)[0]
        send(number, [victim])
        poll_until(lambda: len(set(workers_of(service)) - {victim}) == 2, "it is replaced")  # noqa: B023
        [line] = ends_told(service)[before:]
        assert (line["pid"], line["exit_code"]) == (victim, -number)
        assert hint in line["hint"]
    assert service.stop() == 0
