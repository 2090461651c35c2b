"""What becomes of a log whose reader stops reading: nothing that the service would wait for."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TextIO

import pytest
import structlog
from structlog.typing import EventDict

from iris_api.observability import standard_error
from iris_api.observability.standard_error import unblocked

LINE = "0123456789" * 10 + "\n"
MANY = 20_000
"""Lines that fit into no pipe."""


def a_pipe() -> tuple[int, int]:
    return os.pipe()


def a_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.fixture(params=[a_pipe, a_socket])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, TextIO]]:
    """The reader's end, and the writer's, as the system gives it to a program: it waits."""
    reading, writing = request.param()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def read(fileno: int) -> str:
    """All that is there."""
    os.set_blocking(fileno, False)
    parts = []
    try:
        while part := os.read(fileno, 1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts).decode()


@pytest.fixture
def told() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_a_reader_who_reads_gets_all_of_it(ends: tuple[int, TextIO], told: list[EventDict]) -> None:
    reading, stream = ends
    log = unblocked(stream)
    for number in range(100):
        log.write(f"{number} \ud800\n")
        log.flush()
        assert read(reading) == f"{number} \\ud800\n"
    assert told == []


def test_a_reader_who_does_not_read_stops_nobody_and_learns_what_is_lost(
    ends: tuple[int, TextIO], told: list[EventDict]
) -> None:
    reading, stream = ends
    log = unblocked(stream)
    began = time.monotonic()
    for _ in range(MANY):
        log.write(LINE)
    assert time.monotonic() - began < 20, "it waited for more than the first time"
    whole = read(reading)
    log.write("again\n")
    whole += read(reading)
    *kept, last = whole.splitlines(keepends=True)
    assert set(kept) == {LINE}, "a line is there whole, or not at all"
    assert last == "again\n"
    assert [(event["log_level"], event["lines"]) for event in told] == [
        ("warning", MANY - len(kept))
    ]
    log.write("and again\n")
    assert read(reading) == "and again\n"
    assert len(told) == 1


def test_a_reader_who_is_slow_gets_all_of_it(
    ends: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, stream = ends
    monkeypatch.setattr(standard_error, "_PATIENCE_MS", 60_000)
    text = LINE * MANY
    received: list[bytes] = []

    def read_slowly() -> None:
        while len(b"".join(received)) < len(text):
            received.append(os.read(reading, 50_000))
            time.sleep(0.001)

    reader = Thread(target=read_slowly)
    reader.start()
    unblocked(stream).write(text)
    reader.join(30)
    assert b"".join(received).decode() == text


def test_a_reader_who_is_gone_is_written_to_no_more(ends: tuple[int, TextIO]) -> None:
    reading, stream = ends
    log = unblocked(stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), reading)
    log.write(LINE)
    log.write(LINE)


def test_a_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert unblocked(stream) is stream
