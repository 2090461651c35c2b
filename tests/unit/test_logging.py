import asyncio
import errno
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import structlog

from iris_api.observability.logging import (
    AccessLog,
    LogFields,
    configure_logging,
    log_fields,
    request_id_of_context,
    wants_console,
)
from iris_api.settings import Settings

SCOPE = {"method": "GET", "path": "/model", "client": ("10.0.0.7", 50_000)}
Configure = Callable[..., None]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def configure(capsys: pytest.CaptureFixture[str]) -> Iterator[Configure]:
    """Configure the logging of this process; it is put back after the test."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    before = root.handlers[:], root.level, uvicorn.level
    yield lambda **changes: configure_logging(Settings.model_validate(changes))
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    uvicorn.setLevel(before[2])
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since the last call, one JSON object for each line."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


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


def test_configure_logging_for_the_console_writes_columns(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_format="console")
    structlog.get_logger().info("request", path="/predict", status=200)
    logging.getLogger("alembic").warning("waiting")
    first, second = capsys.readouterr().err.splitlines()
    assert "[info     ] request" in first
    assert "/predict" in first
    assert "status=200" in first
    assert "[warning  ] waiting" in second


@pytest.mark.parametrize("path", ["/\x1b[31m", "/\x1b]0;title\x07", "/a\nb", "/a\rb"])
def test_configure_logging_for_the_console_escapes_control_characters(
    configure: Configure, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    configure(log_format="console")
    structlog.get_logger().info("request", path=path)
    [line] = capsys.readouterr().err.split("\n")[:-1]
    assert line.isprintable()


@pytest.mark.parametrize("terminal", [True, False])
def test_wants_console_is_true_for_a_terminal_unless_a_format_is_set(
    monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert wants_console(Settings(log_format="auto")) is terminal
    assert wants_console(Settings(log_format="console"))
    assert not wants_console(Settings(log_format="json"))
    assert not wants_console(Settings(log_format="auto"), StringIO())


def reraise(error: Exception) -> None:
    raise error


class BrokenStream(StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_access_log_with_a_failing_stream_raises_nothing_and_calls_on_failure(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    unexpected: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, one: unexpected.append(one))
    monkeypatch.setattr(sys, "stderr", BrokenStream())
    configure(log_format=log_format)
    failures: list[Exception] = []
    access_log = AccessLog(on_failure=failures.append)
    access_log.write(SCOPE, 200, 0.1, "id-1")
    await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [OSError]
    assert unexpected == []


@pytest.mark.parametrize(
    ("client", "peer"), [(("10.0.0.7", 50_000), "10.0.0.7"), (("::1", 1), "::1"), (None, None)]
)
async def test_access_log_writes_a_json_line_with_all_that_is_known_of_the_request(
    configure: Configure, lines: Lines, client: tuple[str, int] | None, peer: str | None
) -> None:
    configure()
    scope = {**SCOPE, "path": '/é"\n', "client": client}
    known: LogFields = {"id": 7, "client": 'Zoë "\\', "replayed": True}
    log_fields(scope).update(known)
    AccessLog(on_failure=reraise).write(scope, 200, 0.0015, "id-1")
    await asyncio.sleep(0)
    [line] = lines()
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "event": "request",
        "method": "GET",
        "path": '/é"\n',
        "status": 200,
        "duration_ms": 1.5,
        **known,
        "peer": peer,
        "request_id": "id-1",
        "level": "info",
    }


def test_access_log_for_the_console_writes_all_that_is_known_of_the_request(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_format="console")
    scope = {**SCOPE}
    log_fields(scope)["id"] = 7
    AccessLog(on_failure=reraise).write(scope, 200, 0.0015, "id-1")
    [line] = capsys.readouterr().err.splitlines()
    for word in ("duration_ms=1.5", "id=7", "peer='10.0.0.7'", "status=200"):
        assert word in line


@pytest.mark.parametrize(
    ("log_level", "written"),
    [("DEBUG", ["debug", "info"]), ("INFO", ["info"]), ("WARNING", [])],
)
@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_access_log_with_a_level_writes_no_less_severe_line(
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
    log_level: str,
    written: list[str],
    log_format: str,
) -> None:
    configure(log_format=log_format, log_level=log_level)
    access_log = AccessLog(on_failure=reraise)
    access_log.write(SCOPE, 200, 0.1, "id-1", "debug")
    access_log.write(SCOPE, 200, 0.1, "id-2", "info")
    await asyncio.sleep(0)
    levels = re.findall(r"debug|info", capsys.readouterr().err)
    assert levels == written


def test_access_log_without_a_loop_raises_nothing_and_calls_on_failure(
    configure: Configure,
) -> None:
    configure()
    failures: list[Exception] = []
    AccessLog(on_failure=failures.append).write(SCOPE, 200, 0.1, "id-1")
    assert [type(failure) for failure in failures] == [RuntimeError]
