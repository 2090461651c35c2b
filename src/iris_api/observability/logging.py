"""Structured logs on standard error: JSON for machines, aligned columns on a terminal."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

import structlog
from starlette.types import Scope
from structlog.types import EventDict, Processor

from iris_api.observability.standard_error import unblocked
from iris_api.settings import Settings

request_id_of_context: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current task's request; None outside of requests."""
LogFields: TypeAlias = dict[str, str | int]
Level: TypeAlias = Literal["debug", "info"]
_FIELDS = "iris_api.log"


def log_fields(scope: Scope) -> LogFields:
    """What else the request's log line says (docs/observability.md). Add to it."""
    fields: LogFields = scope.setdefault(_FIELDS, {})
    return fields


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    request_id = request_id_of_context.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


class AccessLog:
    """Writes one log line per request, unless the log level is above the line's.

    A template writes JSON lines in structlog's form, which costs 7 us; structlog's processors would
    cost 35. JSON lines of one turn of the loop are written together, because a group's requests are
    answered together. structlog writes console lines.

    Never raises, because the response may be on its way: ``on_failure`` gets the exception.
    """

    def __init__(self, on_failure: Callable[[Exception], None]) -> None:
        self._on_failure = on_failure
        self._log = structlog.get_logger("iris_api.access")
        processors = structlog.get_config()["processors"]
        self._is_json = isinstance(processors[-1], structlog.processors.JSONRenderer)
        bound = self._log.bind()
        self._levels = {
            level
            for level, number in (("debug", logging.DEBUG), ("info", logging.INFO))
            if bound.is_enabled_for(number)
        }
        self._lines: list[str] = []

    def write(
        self,
        scope: Scope,
        status: int,
        seconds: float,
        request_id: str,
        level: Level = "info",
    ) -> None:
        """Log one request; ``seconds`` is the time from its head to the end of its response."""
        if level not in self._levels:
            return
        try:
            if self._is_json:
                self._add_line(scope, status, seconds, request_id, level)
            else:
                self._log_by_structlog(scope, status, seconds, level)
        except Exception as error:  # noqa: BLE001, a log line must not fail its request
            self._on_failure(error)

    def _add_line(
        self, scope: Scope, status: int, seconds: float, request_id: str, level: Level
    ) -> None:
        more = ""
        for name, value in log_fields(scope).items():
            more += f'"{name}": {_json(value)}, '
        peer = scope.get("client")
        now = datetime.now(UTC).isoformat(timespec="microseconds")[:-6]
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write_lines)
        self._lines.append(
            f'{{"event": "request", "method": {_quoted(scope["method"])}, '
            f'"path": {_quoted(scope["path"])}, '
            f'"status": {int(status)}, "duration_ms": {seconds * 1000:.3f}, {more}'
            f'"peer": {_quoted(peer[0]) if peer else "null"}, '
            f'"request_id": "{request_id}", "level": "{level}", "timestamp": "{now}Z"}}\n'
        )

    def _log_by_structlog(self, scope: Scope, status: int, seconds: float, level: Level) -> None:
        peer = scope.get("client")
        log = self._log.info if level == "info" else self._log.debug
        log(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=int(status),
            duration_ms=round(seconds * 1000, 3),
            **log_fields(scope),
            peer=peer[0] if peer else None,
        )

    def _write_lines(self) -> None:
        lines, self._lines = self._lines, []
        try:
            unblocked(sys.stderr).write("".join(lines))
        except Exception as error:  # noqa: BLE001, see above
            self._on_failure(error)


def _json(value: str | int) -> str:
    if isinstance(value, str):
        return _quoted(value)
    return "true" if value is True else str(value)


def wants_console(settings: Settings, stream: TextIO | None = None) -> bool:
    """Whether to write for a person. ``auto``: if the stream, by default stderr, is a terminal."""
    if settings.log_format == "auto":
        return (stream or sys.stderr).isatty()
    return settings.log_format == "console"


def configure_logging(settings: Settings) -> None:
    """Send the logs of this process, the libraries' included, to standard error.

    Call it once per process; a second call replaces the first.
    """
    if sys.stderr is None:  # the parent process closed it
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115, it stays open
    level = logging.getLevelNamesMapping()[settings.log_level]
    console = wants_console(settings)
    shared: list[Processor] = [
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _console_rendering() if console else _json_rendering()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(unblocked(sys.stderr)),
    )
    _route_standard_library(level, shared, rendering)


def _console_rendering() -> list[Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            repr_native_str=True,  # else a path could send escape sequences to the terminal
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]


def _json_rendering() -> list[Processor]:
    """Leave the values of variables out of tracebacks: they hold user input and passwords."""
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(transformer),
        structlog.processors.JSONRenderer(),
    ]


def _route_standard_library(
    level: int, shared: list[Processor], rendering: list[Processor]
) -> None:
    """Give the records of `logging` (uvicorn's, Alembic's) the same form."""
    handler = logging.StreamHandler(unblocked(sys.stderr))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
