"""A route whose body is streamed: it may take as long as it goes on, and as much as it likes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.support.ports import free_port
from tests.support.raw import Raw, connected
from tests.support.service import Service, environment

SECONDS = 1
"""What a body may stall for, and what any other request may take."""
HEAD = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = b'9\r\n{"a": 1}\n\r\n'
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def service(
    service_database: URL, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("upload")
    port = free_port()
    settings = environment(
        **way_to(service_database),
        data_dir=trained_model,
        port=port,
        body_timeout=SECONDS,
        request_timeout=SECONDS,
        max_body_bytes=1024,
        max_buffered_bytes=4 * MEGABYTE,
    )
    program = Path(__file__).with_name("upload_service.py")
    with (folder / "out").open("wb") as output, (folder / "err").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, program, "serve"],
            env=settings,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    service = Service(process, port, folder / "out", folder / "err")
    try:
        yield service.until_ready()
    finally:
        service.clean_up()


@pytest.fixture
def raw(service: Service) -> Iterator[Raw]:
    with connected(service) as raw:
        yield raw


def test_streamed_body_that_goes_on_slowly_passes_after_any_time(raw: Raw) -> None:
    raw.send(HEAD)
    began = time.monotonic()
    lines = 0
    while time.monotonic() - began < 4 * SECONDS:
        raw.send(LINE)
        lines += 1
        time.sleep(SECONDS / 10)
    raw.send(b"0\r\n\r\n")
    answer = raw.answer()
    assert (answer.status, answer.body) == (200, b"%d" % lines)


def test_streamed_body_that_stalls_is_408(raw: Raw) -> None:
    raw.send(HEAD, LINE)
    assert raw.refusal(408, "request-timeout")


def test_streamed_body_larger_than_all_limits_passes_and_gives_its_bytes_back(raw: Raw) -> None:
    raw.send(HEAD)
    chunk = b"%x\r\n%s\r\n" % (MEGABYTE, b"\n" * MEGABYTE)
    for _ in range(16):
        raw.send(chunk)
    raw.send(b"0\r\n\r\n")
    answer = raw.answer()
    assert (answer.status, answer.body) == (200, b"%d" % (16 * MEGABYTE))


def test_other_body_that_goes_on_slowly_is_408_after_the_request_timeout(raw: Raw) -> None:
    raw.send(HEAD.replace(b"/upload", b"/predict").replace(b"\r\n\r\n", b"\r\n"))
    raw.send(b"Content-Type: application/json\r\n\r\n")
    while not raw.is_answered(SECONDS / 10):
        raw.send(b"1\r\n \r\n")
    assert raw.refusal(408, "request-timeout")
