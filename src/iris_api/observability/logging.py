"""Structured logs on standard error: JSON for machines, short lines on a terminal."""

import logging
import os
import sys
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog
from structlog.types import EventDict, Processor

from iris_api.observability.console_log import console_rendering
from iris_api.observability.standard_error import unblocked
from iris_api.settings import Settings

request_id_of_context: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current task's request; None outside of requests."""


def _add_request_id(_logger: object, _method: str, event: EventDict) -> EventDict:
    request_id = request_id_of_context.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


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
    rendering = console_rendering(sys.stderr) if console else _json_rendering()
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(_LineLogger, unblocked(sys.stderr)),
    )
    _route_standard_library(level, shared, rendering)


class _LineLogger:
    """structlog's `WriteLogger` without its lock: a signal handler may log amid another line."""

    def __init__(self, stream: TextIO, *_arguments: object) -> None:
        self._write = stream.write

    def msg(self, line: str) -> None:
        """Write a line of any level."""
        self._write(line + "\n")

    debug = info = warning = error = critical = msg


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
