"""The log as a person reads it: one short line for each event, wrapped between words."""

import os
import sys
import textwrap
from datetime import datetime
from typing import TextIO

import structlog
from structlog.types import EventDict, Processor

START_PROBE = "iris-api-start"
"""The request id of the request by which `iris-api serve` finds that it is ready; not shown."""
_INDENT = " " * len("06:19:30 ")
_RED, _GREEN, _YELLOW, _DIM = "31", "32", "33", "2"
_LEVEL_COLOURS = {"warning": _YELLOW, "error": _RED, "critical": _RED}
_SERVER_ERROR = 500
_REQUEST_FIELDS = {"method", "path", "status", "duration_ms"}


def console_rendering(stream: TextIO) -> list[Processor]:
    """Return structlog's last processors, for this stream."""
    return [structlog.processors.format_exc_info, ConsoleRenderer(stream)]


class ConsoleRenderer:
    """Renders ``06:19:30 warning MESSAGE name=value``, in local time; without the level of info.

    A request is ``06:19:30 POST /predict 200 4.7 ms``. Escapes what is not printable: a path could
    send commands to the terminal. Colours and wraps only on a terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_colours = self._is_terminal and not os.environ.get("NO_COLOR")
        self._is_unicode = (stream.encoding or "utf-8").lower().startswith("utf")

    def __call__(self, _logger: object, _method: str, event: EventDict) -> str:
        """Return the line. Raises `structlog.DropEvent` for the program's own request."""
        timestamp, level = event.pop("timestamp"), event.pop("level", "info")
        time = f"{datetime.fromisoformat(timestamp).astimezone():%H:%M:%S}"
        exception = event.pop("exception", None)
        if event["event"] == "request" and event.keys() >= _REQUEST_FIELDS:
            line = f"{self._coloured(time, _DIM)} {self._request(event)}"
        else:
            line = self._event(time, level, event)
        if exception is not None:
            line += "\n" + _escaped(exception, keep="\n")
        return line if self._is_unicode else line.encode("ascii", "backslashreplace").decode()

    def _request(self, event: EventDict) -> str:
        for name in ("event", "peer"):  # there is one peer, at a terminal
            event.pop(name, None)
        status = int(event.pop("status"))
        request_id = event.pop("request_id", None)
        if request_id == START_PROBE and event["path"] == "/readyz":
            raise structlog.DropEvent
        if status >= _SERVER_ERROR:
            event["request_id"] = request_id
        method, path = _escaped(event.pop("method")), _escaped(event.pop("path"))
        shown = self._coloured(str(status or "no response"), _colour_of(status))
        duration = f"{event.pop('duration_ms'):.1f} ms"
        return " ".join([method, path, shown, duration, *_pairs(event)])

    def _event(self, time: str, level: str, event: EventDict) -> str:
        name = str(event.pop("event"))
        text = event.pop("message", name)
        if detail := event.pop("detail", None):
            text = f"{text}: {detail}"
        prefix = f"{time} {level} " if level != "info" else f"{time} "
        words = [_escaped(str(text)), *_pairs(event)]
        line = wrapped(prefix + " ".join(words), self._stream, _INDENT)
        colour = _LEVEL_COLOURS.get(level, _DIM)
        line = self._coloured(line[: len(prefix)], colour) + line[len(prefix) :]
        return f"\r{line}" if name == "stopping" and self._is_terminal else line  # hides its ^C

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._has_colours else text


def wrapped(text: str, stream: TextIO, indent: str = "") -> str:
    """The text in lines of the terminal's width, never broken within a word or a URL.

    Unchanged if the stream is no terminal.
    """
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return text
    wrapper = textwrap.TextWrapper(
        width or sys.maxsize,  # a terminal may not know its width
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(map(wrapper.fill, text.split("\n")))


def _pairs(event: EventDict) -> list[str]:
    return [f"{name}={_value(value)}" for name, value in event.items() if value is not None]


def _value(value: object) -> str:
    """A word as it is, a text with blanks in quotes."""
    text = str(value)
    if text and text.isprintable() and not set(" '\"") & set(text):
        return text
    return _escaped(repr(text))


def _escaped(text: str, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode()
        for one in text
    )


def _colour_of(status: int) -> str:
    if status in range(1, 400):
        return _GREEN
    return _RED if status >= _SERVER_ERROR or not status else _YELLOW
