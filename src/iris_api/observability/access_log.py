"""The access log: one line for each request."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Literal, TypeAlias

import structlog
from starlette.types import Scope

from iris_api.observability.standard_error import unblocked

LogFields: TypeAlias = dict[str, str | int]
Level: TypeAlias = Literal["debug", "info"]
_FIELDS = "iris_api.log"


def log_fields(scope: Scope) -> LogFields:
    """What else the request's log line says (docs/observability.md). Add to it."""
    fields: LogFields = scope.setdefault(_FIELDS, {})
    return fields


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
        self._second = -1
        self._text_of_second = ""

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
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write_lines)
        self._lines.append(
            f'{{"event": "request", "method": {_quoted(scope["method"])}, '
            f'"path": {_quoted(scope["path"])}, '
            f'"status": {int(status)}, "duration_ms": {seconds * 1000:.3f}, {more}'
            f'"peer": {_quoted(peer[0]) if peer else "null"}, '
            f'"request_id": "{request_id}", "level": "{level}", "timestamp": "{self._now()}"}}\n'
        )

    def _now(self) -> str:
        """The time in structlog's form. To format a whole time would cost as much as the line."""
        second, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        if second != self._second:
            self._second = second
            self._text_of_second = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{self._text_of_second}.{microseconds:06d}Z"

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
