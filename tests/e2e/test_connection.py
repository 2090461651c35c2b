"""One connection, kept alive over answers of every kind."""

import asyncio
import json
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from tests.conftest import execute
from tests.support.flowers import SETOSA
from tests.support.service import Service

JSON = {"Content-Type": "application/json"}


class OneConnection:
    """HTTP over one socket; a request fails where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.connect()
        self.connection.auto_open = False

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        self.connection.request(method, path, body, JSON)
        response = self.connection.getresponse()
        content = response.read()
        assert response.headers.get("Connection") != "close"
        if response.status >= 400:
            assert response.headers["Content-Type"] == "application/problem+json"
        answer: dict[str, Any] = json.loads(content)
        return response.status, answer


@pytest.fixture
def one(service: Service) -> Iterator[OneConnection]:
    connection = OneConnection(service.port)
    yield connection
    connection.connection.close()


def test_connection_stays_open_after_every_error_response(
    one: OneConnection, service: Service, service_database: URL
) -> None:
    flower = json.dumps(SETOSA)
    chunk = b" " * 3000
    execute(service_database, "ALTER TABLE iris_predictions ADD CHECK (sepal_length <> 9)")
    asked = [
        (200, "POST", "/predict", flower),
        (404, "GET", "/nowhere", None),
        (405, "GET", "/predict", None),
        (422, "POST", "/predict", "{}"),
        (400, "POST", "/predict", "{"),
        (400, "POST", "/predict", "[" * 4000),
        (413, "POST", "/predict", b" " * 100_000),
        (413, "POST", "/predict", iter([chunk] * 30)),
        (404, "GET", "/predictions/999999", None),
        (422, "GET", "/predictions?limit=0", None),
        (500, "POST", "/predict", json.dumps({**SETOSA, "sepal_length": 9})),
    ]
    socket_at_first = one.connection.sock
    for status, method, path, body in asked:
        assert one.ask(method, path, body)[0] == status
        assert one.ask("GET", "/livez")[0] == 200
    execute(service_database, "ALTER TABLE iris_predictions RENAME TO elsewhere")
    assert one.ask("POST", "/predict", flower)[0] == 503
    execute(service_database, "ALTER TABLE elsewhere RENAME TO iris_predictions")
    status, answer = one.ask("POST", "/predict", flower)
    assert (status, answer["prediction_label"]) == (200, "setosa")
    assert one.connection.sock is socket_at_first
    assert "Traceback" not in service.output


def test_connection_closed_amid_a_request_does_not_affect_another(
    one: OneConnection, service: Service
) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for content in (b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with socket.create_connection(("127.0.0.1", service.port)) as leaving:
            leaving.sendall(head + content)
    with socket.create_connection(("127.0.0.1", service.port)) as leaving:
        leaving.sendall(b"\x00\xff\r\n\r\n")
        assert leaving.recv(4096).startswith(b"HTTP/1.1 400")
    assert one.ask("POST", "/predict", json.dumps(SETOSA))[0] == 200


async def test_predict_with_200_concurrent_requests_gives_each_its_own_response(
    service: Service,
) -> None:
    flowers = [{**SETOSA, "sepal_length": 5 + number / 1000} for number in range(200)]
    async with service.client() as client:
        responses = await asyncio.gather(
            *(client.post("/predict", json=flower) for flower in flowers)
        )
        page = (await client.get("/predictions", params={"limit": 1000})).json()
    stored = {row["id"]: row for row in page["items"]}
    assert len({response.json()["id"] for response in responses}) == len(flowers)
    for flower, response in zip(flowers, responses, strict=True):
        expected = {**response.json(), **flower, "reference": None}
        assert stored[response.json()["id"]] == expected


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/livez", "/readyz", "/model", "/predictions", "/x"]
)
def test_head_request_has_the_status_and_headers_of_get_and_no_body(
    one: OneConnection, path: str
) -> None:
    answers = {}
    for method in ("GET", "HEAD", "HEAD", "GET"):  # were there a body, it would begin the next one
        one.connection.request(method, path)
        response = one.connection.getresponse()
        response.read()
        fields = {n: v for n, v in response.getheaders() if n not in {"date", "x-request-id"}}
        answers[method] = response.status, fields
    assert answers["HEAD"] == answers["GET"]
    assert "content-length" in answers["HEAD"][1]


def test_serve_raises_the_open_files_limit_to_max_connections(
    begin: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -S -n 64\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    service = begin(max_connections=100)
    with ExitStack() as stack:
        for _ in range(95):
            one = stack.enter_context(closing(OneConnection(service.port).connection))
            one.sock.settimeout(10)
            one.request("GET", "/livez")
            assert one.getresponse().read() == b'{"status":"alive"}'
