import os
import re
import termios
import time
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any, TextIO

import pytest
import structlog

from iris_api.observability.console_log import START_PROBE, ConsoleRenderer, wrapped

WHEN = "2026-11-27T06:19:30.340661Z"
REQUEST = {"event": "request", "method": "POST", "path": "/predict", "request_id": "1" * 32}
ESCAPE_CODE = re.compile(r"\x1b\[\d+m")
COLUMNS = 80


@pytest.fixture(autouse=True)
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone of the person at the terminal: an hour and a half before UTC's."""
    monkeypatch.setenv("TZ", "<+0130>-1:30")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A terminal of 80 columns."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    main, side = os.openpty()
    termios.tcsetwinsize(side, (40, COLUMNS))
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        yield stream
    os.close(main)


def render(stream: TextIO | None = None, /, **event: Any) -> str:
    fields = {"timestamp": WHEN, "level": "info", **event}
    line = ConsoleRenderer(stream or StringIO())(None, "", fields)
    assert isinstance(line, str)
    return line


def test_console_renderer_of_a_request_is_one_short_line_in_local_time() -> None:
    line = render(**REQUEST, status=200, duration_ms=4.686)
    assert line == "07:49:30 POST /predict 200 4.7 ms"


def test_console_renderer_of_a_request_shows_further_values_but_not_none() -> None:
    line = render(**REQUEST, status=200, duration_ms=4.7, id=7, client="a b", other=None)
    assert line == "07:49:30 POST /predict 200 4.7 ms id=7 client='a b'"


@pytest.mark.parametrize(("status", "shown"), [(503, "503"), (0, "no response")])
def test_console_renderer_of_a_failed_request_names_it(status: int, shown: str) -> None:
    line = render(**REQUEST, status=status, duration_ms=4.7)
    assert line.startswith(f"07:49:30 POST /predict {shown} 4.7 ms")
    assert ("request_id=11111" in line) is (status == 503)


def test_console_renderer_hides_only_the_readiness_request_of_serve_itself() -> None:
    own = {**REQUEST, "request_id": START_PROBE, "status": 200, "duration_ms": 1.0}
    with pytest.raises(structlog.DropEvent):
        render(**{**own, "path": "/readyz"})
    assert "/predict" in render(**own)
    assert "/readyz" in render(**{**own, "path": "/readyz", "request_id": "2"})


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "ready"}, "07:49:30 ready"),
        ({"event": "x", "message": "It is done"}, "07:49:30 It is done"),
        ({"event": "x", "level": "warning", "pid": 7}, "07:49:30 warning x pid=7"),
        ({"event": "refused", "level": "error", "detail": "No."}, "07:49:30 error refused: No."),
        ({"event": "x", "a": "b c", "d": "", "e": None}, "07:49:30 x a='b c' d=''"),
    ],
)
def test_console_renderer_of_an_event_is_time_level_message_and_values(
    event: dict[str, object], line: str
) -> None:
    assert render(**event) == line


@pytest.mark.parametrize("text", ["\x1b[31m", "\x1b]0;title\x07", "a\nb", "a\rb", "\x9b", "\ud800"])
@pytest.mark.parametrize("name", ["path", "method", "message", "detail", "other", "event"])
def test_console_renderer_escapes_what_could_command_the_terminal(name: str, text: str) -> None:
    request = {**REQUEST, "status": 200, "duration_ms": 1.0}
    start = request if name in {"path", "method"} else {"event": "x"}
    assert render(**{**start, name: text}).isprintable()


def test_console_renderer_of_an_exception_keeps_its_lines_and_escapes_the_rest() -> None:
    line = render(event="failed", level="error", exception="Traceback:\n  ValueError: \x1b[31m")
    assert line == "07:49:30 error failed\nTraceback:\n  ValueError: \\x1b[31m"


def test_console_renderer_without_unicode_writes_ascii() -> None:
    stream = TextIOWrapper(BytesIO(), encoding="latin-1")
    assert render(stream, event="x", message="Łukasz é") == "07:49:30 \\u0141ukasz \\xe9"


def test_console_renderer_at_a_terminal_colours_level_and_status_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, terminal: TextIO
) -> None:
    request = {**REQUEST, "status": 200, "duration_ms": 1.0}
    assert "\x1b[32m200\x1b[0m" in render(terminal, **request)
    assert "\x1b[33m07:49:30 warning \x1b[0m" in render(terminal, event="x", level="warning")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(terminal, **request)


def test_console_renderer_at_a_terminal_wraps_an_event_between_words(terminal: TextIO) -> None:
    url = "http://127.0.0.1:8000/" + "a" * 40
    line = render(terminal, event="x", level="warning", message=f"{'word ' * 12}{url} end", n=1)
    shown = ESCAPE_CODE.sub("", line).split("\n")
    assert len(shown) > 1
    assert all(len(one) <= COLUMNS for one in shown)
    assert all(one.startswith(" " * 9) for one in shown[1:])
    assert url in shown[1]


def test_wrapped_at_a_terminal_keeps_a_word_wider_than_it_and_the_line_breaks(
    terminal: TextIO,
) -> None:
    long = "x" * 100
    assert wrapped(f"one {long}\ntwo", terminal, "  ") == f"one\n  {long}\ntwo"


def test_wrapped_without_a_terminal_is_unchanged() -> None:
    text = "word " * 100
    assert wrapped(text, StringIO()) == text
