"""Whatever reads the log on standard error may stand still: the service does not wait for it."""

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
from tests.support.raw import GET, connected
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

PATH = "/" + "x" * 1000
MANY = 600
"""Requests whose lines fit into no pipe, and not into the queue before it."""
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


def fill(service: Service) -> None:
    """Have more lines logged than wait anywhere, and each request answered."""
    with connected(service) as raw:
        for _ in range(MANY):
            raw.send(GET.replace(b"/livez", PATH.encode()))
            assert raw.answer().status == 404
        raw.send(GET)
        assert raw.answer().status == 200


def read_log(reading: int) -> str:
    """What there is to be read."""
    parts = []
    try:
        while part := os.read(reading, 2**16):
            parts.append(part)
    except (BlockingIOError, OSError):  # nothing just now, or a terminal's other end is closed
        pass
    return b"".join(parts).decode()


def until_told(reading: int) -> list[dict[str, Any]]:
    """Read the log until each of so many requests is there, or is told to be lost."""
    text = ""

    def all_is_told() -> bool:
        nonlocal text
        text += read_log(reading)
        lines = lines_of(text)
        lost = sum(line["lines"] for line in lines if line["event"] == "log_lines_dropped")
        return text.endswith("\n") and PATH in text and lost + text.count(PATH) >= MANY

    poll_until(all_is_told, "each line is there, or told to be dropped")
    return lines_of(text)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("ends", [a_pipe, a_socket, a_terminal])
async def test_serve_with_an_unread_log_responds_and_logs_how_many_lines_it_dropped(
    serve: Serve, ends: Ends
) -> None:
    service, reading = serve(ends)
    fill(service)
    async with service.client() as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert any(line["event"] == "log_lines_dropped" for line in until_told(reading))
    assert service.stop() == 0
    service.leaves_nothing()


async def test_serve_with_workers_and_an_unread_log_logs_how_many_lines_it_dropped(
    serve: Serve,
) -> None:
    service, reading = serve(a_pipe, workers=2)
    fill(service)
    assert any(line["event"] == "log_lines_dropped" for line in until_told(reading))
    assert service.stop() == 0
    service.leaves_nothing()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
async def test_serve_with_an_unread_log_pipe_of_another_user_responds(serve: Serve) -> None:
    """As with supervisord's `user=`, or sudo: the service may not open the pipe anew."""
    service, reading = serve(a_pipe, *OF_ANOTHER_USER, *MAY_READ, until="/livez")
    assert os.stat(f"/proc/{service.process.pid}").st_uid == 54321  # noqa: PTH116, for ASYNC240
    fill(service)
    lines = until_told(reading)
    assert any(line["event"] == "log_lines_dropped" for line in lines)
    assert service.stop() == 0


@pytest.mark.parametrize("ends", [a_pipe, a_socket, a_terminal])
@pytest.mark.parametrize("workers", [1, 2])
async def test_serve_with_an_unread_log_stops_within_the_shutdown_timeout(
    serve: Serve, ends: Ends, workers: int
) -> None:
    service, _ = serve(ends, workers=workers, shutdown_delay=0, shutdown_timeout=1)
    fill(service)
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
    fill(service)
    victim = workers_of(service)[0]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == 2, "it is replaced")
    assert service.stop() == 0


async def test_serve_continues_when_the_disk_of_its_log_is_full(serve: Serve) -> None:
    def full() -> tuple[int, int]:
        return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)

    service, _ = serve(full, workers=2)
    fill(service)
    victim = workers_of(service)[0]
    send(signal.SIGKILL, [victim])
    poll_until(lambda: len(set(workers_of(service)) - {victim}) == 2, "it is replaced")
    fill(service)
    assert service.stop() == 0


async def test_serve_without_standard_error_responds(serve: Serve) -> None:
    service, _ = serve(a_pipe, "sh", "-c", 'exec "$@" 2>&-', "sh", workers=2)
    fill(service)
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
