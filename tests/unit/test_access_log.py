import asyncio
import errno
import re
import sys
import time
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from tests.unit.conftest import Configure, Lines

from iris_api.observability.access_log import AccessLog, LogFields, log_fields

SCOPE = {"method": "GET", "path": "/model", "client": ("10.0.0.7", 50_000)}


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


async def test_access_log_writes_the_time_of_each_line(
    configure: Configure, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    access_log = AccessLog(on_failure=reraise)
    begin = 1_795_762_799_000_000_000  # 2026-11-27T06:59:59Z
    for microseconds in (0, 999_999, 1_000_000, 1_000_001, 500_000):
        monkeypatch.setattr(time, "time_ns", lambda at=begin + microseconds * 1000: at)
        access_log.write(SCOPE, 200, 0.1, "id-1")
    await asyncio.sleep(0)
    assert [line["timestamp"] for line in lines()] == [
        "2026-11-27T06:59:59.000000Z",
        "2026-11-27T06:59:59.999999Z",
        "2026-11-27T07:00:00.000000Z",
        "2026-11-27T07:00:00.000001Z",
        "2026-11-27T06:59:59.500000Z",
    ]


def test_access_log_for_the_console_writes_all_that_is_known_of_the_request(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(log_format="console")
    scope = {**SCOPE}
    log_fields(scope)["id"] = 7
    AccessLog(on_failure=reraise).write(scope, 200, 0.0015, "id-1")
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d GET /model 200 1\.5 ms id=7.*", line)


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
    assert len(capsys.readouterr().err.splitlines()) == len(written)


def test_access_log_without_a_loop_raises_nothing_and_calls_on_failure(
    configure: Configure,
) -> None:
    configure()
    failures: list[Exception] = []
    AccessLog(on_failure=failures.append).write(SCOPE, 200, 0.1, "id-1")
    assert [type(failure) for failure in failures] == [RuntimeError]
