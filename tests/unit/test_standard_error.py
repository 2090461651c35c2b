"""What becomes of a log whose reader stops reading: nothing that the service would wait for."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TextIO

import pytest
import structlog
from structlog.typing import EventDict
from tests.support.ends import a_pipe, a_socket, a_terminal
from tests.support.service import poll_until

from iris_api.observability import standard_error
from iris_api.observability.standard_error import unblocked

LINE = "0123456789" * 10 + "\n"
MANY = 20_000
"""Lines that fit into no pipe, and not into the queue before it."""


def a_pipe_that_does_not_wait() -> tuple[int, int]:
    """As it is where another process that writes there has made it so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return reading, writing


@pytest.fixture(params=[a_pipe, a_socket, a_terminal, a_pipe_that_does_not_wait])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, TextIO]]:
    """The reader's end, and the writer's, as the system gives it to a program."""
    reading, writing = request.param()
    stream = os.fdopen(writing, "w")
    yield reading, stream
    os.close(reading)
    for queue in standard_error._queues:
        queue.drain()  # or its thread might write to the descriptor's next owner
    stream.close()


def read(fileno: int, until: str) -> str:
    """All that comes until there is such an end."""
    text = ""

    def is_there() -> bool:
        nonlocal text
        text += read_available(fileno)
        return text.endswith(until)

    poll_until(is_there, f"{until!r} is read")
    return text


def read_available(fileno: int) -> str:
    os.set_blocking(fileno, False)
    parts = []
    try:
        while part := os.read(fileno, 1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts).decode()


@pytest.fixture
def events() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


def test_unblocked_with_an_active_reader_delivers_every_line(
    ends: tuple[int, TextIO], events: list[EventDict]
) -> None:
    reading, stream = ends
    log = unblocked(stream)
    for number in range(100):
        log.write(f"{number} \ud800\n")
        log.flush()
    text = read(reading, until="99 \\ud800\n")
    assert text == "".join(f"{number} \\ud800\n" for number in range(100))
    assert events == []


def test_unblocked_with_a_stalled_reader_drops_lines_and_logs_how_many(
    ends: tuple[int, TextIO], events: list[EventDict]
) -> None:
    reading, stream = ends
    log = unblocked(stream)
    began = time.monotonic()
    for _ in range(MANY):
        log.write(LINE)
    assert time.monotonic() - began < 5, "it waited"
    whole = ""

    def each_line_is_accounted_for() -> bool:
        nonlocal whole
        whole += read_available(reading)
        return bool(whole.count("\n") + sum(event["lines"] for event in events) == MANY)

    poll_until(each_line_is_accounted_for, "each line is there, or is told of")
    assert set(whole.splitlines(keepends=True)) == {LINE}, "a line is there whole, or not at all"
    assert {(event["event"], event["log_level"]) for event in events} == {
        ("log_lines_dropped", "warning")
    }
    log.write("again\n")
    assert read(reading, until="again\n") == "again\n"


def test_unblocked_with_a_slow_reader_delivers_every_line(
    ends: tuple[int, TextIO], events: list[EventDict]
) -> None:
    reading, stream = ends
    text = LINE * (MANY // 4)
    received: list[bytes] = []

    def read_slowly() -> None:
        while len(b"".join(received)) < len(text):
            received.append(os.read(reading, 50_000))
            time.sleep(0.001)

    reader = Thread(target=read_slowly)
    reader.start()
    unblocked(stream).write(text)
    reader.join(60)
    assert b"".join(received).decode() == text
    assert events == []


def test_unblocked_with_a_closed_reader_does_not_wait(ends: tuple[int, TextIO]) -> None:
    reading, stream = ends
    log = unblocked(stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), reading)
    began = time.monotonic()
    for _ in range(100):
        log.write(LINE * 100)
        standard_error.drain()
    assert time.monotonic() - began < 5


def test_unblocked_with_two_writers_and_a_slow_reader_keeps_lines_whole() -> None:
    reading, writing = os.pipe()
    second = os.dup(writing)
    with os.fdopen(writing, "w") as one, os.fdopen(second, "w") as two:
        logs = [unblocked.__wrapped__(one), unblocked.__wrapped__(two)]
        lines = ["a" * 1000 + "\n", "b" * 1700 + "\n"]
        for log, line in zip(logs, lines, strict=True):
            log.write(line * 300)
            log.write("end\n")
        whole = ""
        while whole.count("end\n") < 2:
            whole += os.read(reading, 3000).decode()
    os.close(reading)
    assert set(whole.splitlines(keepends=True)) == {*lines, "end\n"}


def test_unblocked_with_a_file_writes_to_it(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        unblocked(stream).write("one \ud800\n")
        standard_error.drain()
        assert (tmp_path / "log").read_text() == "one \\ud800\n"


def test_unblocked_with_a_full_disk_drops_lines_and_logs_how_many(
    tmp_path: Path, events: list[EventDict]
) -> None:
    """A limit on the size of files stands for the disk: it too lets a line end amid its letters."""
    program = (
        "import resource, sys, structlog\n"
        "from iris_api.observability.standard_error import unblocked\n"
        "log = unblocked(sys.stderr)\n"
        "structlog.configure(logger_factory=structlog.WriteLoggerFactory(log),"
        " processors=[structlog.processors.JSONRenderer()])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50, -1))\n"
        "for _ in range(5): log.write('0123456789' * 2 + '\\n')\n"
        "log.drain()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "log.write('again\\n')\n"
    )
    with (tmp_path / "log").open("w") as stream:
        subprocess.run([sys.executable, "-c", program], stderr=stream, check=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == [
        *["0123456789" * 2] * 2,
        "01234567",
        "again",
        '{"lines": 3, "event": "log_lines_dropped"}',
    ]


def test_unblocked_of_a_stream_without_a_file_is_the_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert unblocked(sys.stderr) is sys.stderr


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "1 / 0"])
def test_unblocked_at_interpreter_exit_writes_pending_lines_to_a_slow_reader(end: str) -> None:
    program = (
        "import sys\nfrom iris_api.observability.standard_error import unblocked\n"
        f"unblocked(sys.stderr).write({LINE!r} * 5000 + 'end\\n')\n{end}"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"end\n" in process.stderr.read()


def test_unblocked_at_interpreter_exit_waits_only_briefly_for_a_stalled_reader() -> None:
    program = (
        "import sys\nfrom iris_api.observability.standard_error import unblocked\n"
        f"unblocked(sys.stderr).write({LINE!r} * 5000)\nprint('now', flush=True)"
    )
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        began = time.monotonic()
        assert process.wait(60) == 0
        assert time.monotonic() - began < 5
    os.close(reading)
    os.close(writing)
