import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from io import StringIO

import pytest
import structlog
from tests.unit.conftest import Configure, Lines

from iris_api.observability.logging import (
    request_id_of_context,
    wants_console,
)
from iris_api.settings import Settings


@pytest.fixture
def request_id() -> Iterator[str]:
    """The test runs within a request."""
    token = request_id_of_context.set("id-1")
    yield "id-1"
    request_id_of_context.reset(token)


def fail() -> None:
    password = "hunter" + str(2)
    raise ArithmeticError(f"failed with {len(password)} characters")


def log_structured() -> None:
    try:
        fail()
    except ArithmeticError:
        structlog.get_logger("iris_api").exception("it failed")


def log_through_the_standard_library() -> None:
    try:
        fail()
    except ArithmeticError:
        logging.getLogger("uvicorn.error").exception("it %s", "failed")


EITHER_WAY = pytest.mark.parametrize("log", [log_structured, log_through_the_standard_library])


def test_configure_logging_writes_each_line_as_a_json_object(
    configure: Configure, lines: Lines
) -> None:
    configure()
    structlog.get_logger().info("request", path="/\ud800\n", status=200)
    [line] = lines()
    time = datetime.fromisoformat(line.pop("timestamp"))
    assert time.utcoffset() == timedelta(0)
    assert line == {"event": "request", "level": "info", "path": "/\ud800\n", "status": 200}


@EITHER_WAY
def test_configure_logging_within_a_request_adds_the_request_id(
    configure: Configure, lines: Lines, request_id: str, log: Callable[[], None]
) -> None:
    configure()
    log()
    assert [line["request_id"] for line in lines()] == [request_id]


@EITHER_WAY
def test_configure_logging_with_an_exception_writes_a_structured_traceback(
    configure: Configure, lines: Lines, log: Callable[[], None]
) -> None:
    configure()
    log()
    [line] = lines()
    [exception] = line["exception"]
    assert (line["event"], line["level"]) == ("it failed", "error")
    assert exception["exc_type"] == "ArithmeticError"
    assert exception["exc_value"] == "failed with 7 characters"
    assert exception["frames"][-1]["name"] == "fail"


@EITHER_WAY
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_configure_logging_with_an_exception_hides_the_values_of_variables(
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
    log: Callable[[], None],
    log_format: str,
) -> None:
    configure(log_format=log_format)
    log()
    written = capsys.readouterr().err
    assert "failed with 7 characters" in written
    assert "hunter2" not in written


def test_configure_logging_writes_lines_of_libraries_in_the_same_form(
    configure: Configure, lines: Lines
) -> None:
    configure()
    logging.getLogger("alembic").warning("revision %s is %d old", "1", 2)
    [line] = lines()
    assert line.keys() == {"event", "level", "timestamp"}
    assert (line["event"], line["level"]) == ("revision 1 is 2 old", "warning")


def test_configure_logging_writes_warnings_as_lines(configure: Configure, lines: Lines) -> None:
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("this is deprecated", DeprecationWarning, stacklevel=1)
    [line] = lines()
    assert line["level"] == "warning"
    assert "DeprecationWarning: this is deprecated" in line["event"]


@pytest.mark.parametrize(
    ("level", "own", "foreign"),
    [
        ("DEBUG", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("INFO", ["info", "warning", "error"], ["warning", "error"]),
        ("ERROR", ["error"], ["error"]),
    ],
)
def test_configure_logging_with_a_level_drops_less_severe_lines(
    configure: Configure, lines: Lines, level: str, own: list[str], foreign: list[str]
) -> None:
    configure(log_level=level)
    for logger in (structlog.get_logger(), logging.getLogger("uvicorn")):
        for severity in ("debug", "info", "warning", "error"):
            getattr(logger, severity)("event")
    assert [line["level"] for line in lines()] == own + foreign


def test_configure_logging_twice_writes_each_line_once(configure: Configure, lines: Lines) -> None:
    configure()
    configure()
    logging.getLogger("alembic").warning("once")
    structlog.get_logger().warning("once")
    assert len(lines()) == 2


def test_configure_logging_for_the_console_writes_short_lines(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_format="console")
    structlog.get_logger().info("ready", port=8000)
    logging.getLogger("alembic").warning("waiting")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d ready port=8000", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning waiting", second)


@pytest.mark.parametrize("terminal", [True, False])
def test_wants_console_is_true_for_a_terminal_unless_a_format_is_set(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert wants_console(Settings(log_format="auto")) is terminal
    assert wants_console(Settings(log_format="console"))
    assert not wants_console(Settings(log_format="json"))
    assert not wants_console(Settings(log_format="auto"), StringIO())


def test_log_from_a_signal_handler_amid_another_line_does_not_wait_for_it() -> None:
    program = """
import signal, structlog
from iris_api.observability.logging import configure_logging
from iris_api.settings import Settings

configure_logging(Settings(log_format="console"))
log = structlog.get_logger()
signal.signal(signal.SIGALRM, lambda *_: log.info("handled"))
signal.setitimer(signal.ITIMER_REAL, 2e-3, 2e-3)
for number in range(20_000):
    log.info("line")
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=True, timeout=120
    )
