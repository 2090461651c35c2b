"""deploy/nginx.conf: what clients see of two replicas, which are the test's own here."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.support.ports import free_port
from tests.support.service import poll_until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
KEY = {"Idempotency-Key": "mine"}
BUSY = {"type": "urn:iris-api:problem:overloaded", "status": 503}


class Replica(ThreadingHTTPServer):
    """Answers, is busy, or hangs up on each request; it counts them."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.does = "answer"
        self.asked: list[str] = []
        self.connections: list[socket.socket] = []
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def vanish(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        size = len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if self.server.does == "hang up":
            self.close_connection = True
            return
        is_busy = self.server.does == "be busy"
        content = json.dumps(BUSY if is_busy else {"size": size}).encode()
        self.send_response(503 if is_busy else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815, as http.server asks for it

    def log_message(self, *_: object) -> None: ...


class Proxy:
    """nginx with the configuration, but for its ports and folders, before two replicas."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.ports = [free_port(), free_port()]
        self.replicas = [Replica(port) for port in self.ports]
        text = CONFIGURATION.read_text().replace("127.0.0.1:8000;", f"127.0.0.1:{self.port};")
        for number, port in enumerate(self.ports, start=1):
            assert text.count(f"127.0.0.1:800{number} ") == 1
            text = text.replace(f"127.0.0.1:800{number} ", f"127.0.0.1:{port} ")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = ["access_log off;", *(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)]
        (folder / "nginx.conf").write_text(text.replace("http {", f"http {{ {' '.join(own)}"))
        (folder / "main.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; include {folder}/nginx.conf;"
        )

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()

    def asked(self) -> int:
        """How many requests the replicas have seen since the last time that one asked."""
        count = sum(len(replica.asked) for replica in self.replicas)
        for replica in self.replicas:
            replica.asked.clear()
        return count

    def is_there(self) -> bool:
        try:
            return self.ask("GET", "/")[0] == 200
        except OSError:
            return False


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    proxy = Proxy(tmp_path)
    process = subprocess.Popen(
        [program, "-p", tmp_path, "-c", tmp_path / "main.conf", "-e", tmp_path / "error.log"]
    )
    try:
        poll_until(proxy.is_there, "nginx passes on what it is asked")
        proxy.asked()
        yield proxy
    finally:
        process.terminate()
        process.wait(30)
        for replica in proxy.replicas:
            replica.vanish()


@pytest.mark.parametrize(
    ("method", "headers", "replicas"), [("GET", {}, 2), ("POST", {}, 1), ("POST", KEY, 1)]
)
def test_nginx_with_overloaded_replicas_passes_on_their_503(
    proxy: Proxy, method: str, headers: dict[str, str], replicas: int
) -> None:
    """However often. Only what reads is sent to the other one as well."""
    for replica in proxy.replicas:
        replica.does = "be busy"
    for _ in range(10):
        assert proxy.ask(method, "/predict", headers=headers) == (503, BUSY)
        assert proxy.asked() == replicas


def test_nginx_retries_get_when_a_replica_hangs_up(proxy: Proxy) -> None:
    proxy.replicas[0].does = "hang up"
    for _ in range(10):
        assert proxy.ask("GET", "/predictions")[0] == 200


@pytest.mark.parametrize("headers", [{}, KEY])
def test_nginx_with_post_to_a_replica_that_hangs_up_is_outcome_unknown_without_a_retry(
    proxy: Proxy, headers: dict[str, str]
) -> None:
    """Sent to the other as well, it might be stored twice, or be refused, which would hide that."""
    proxy.replicas[0].does = "hang up"
    answers = [proxy.ask("POST", "/predict", headers=headers) for _ in range(10)]
    assert proxy.asked() == len(answers), "what may be stored was sent again"
    assert sorted({status for status, _ in answers}) == [200, 503]
    for status, body in answers:
        if status == 503:
            assert body["type"] == "urn:iris-api:problem:outcome-unknown"
            assert body["status"] == 503
            assert len(body["request_id"]) == 32


@pytest.mark.parametrize("headers", [{}, KEY])
def test_nginx_sends_post_to_the_other_replica_when_one_is_down(
    proxy: Proxy, headers: dict[str, str]
) -> None:
    proxy.replicas[0].vanish()
    for _ in range(10):
        assert proxy.ask("POST", "/predict", headers=headers)[0] == 200


@pytest.mark.parametrize(("method", "slug"), [("GET", "unavailable"), ("POST", "outcome-unknown")])
@pytest.mark.parametrize("headers", [{}, KEY])
def test_nginx_without_any_replica_is_503_with_a_problem(
    proxy: Proxy, method: str, slug: str, headers: dict[str, str]
) -> None:
    for replica in proxy.replicas:
        replica.vanish()
    status, body = proxy.ask(method, "/predict", headers=headers)
    assert (status, body["type"]) == (503, f"urn:iris-api:problem:{slug}")


@pytest.mark.parametrize("headers", [{}, KEY])
def test_nginx_has_the_body_limit_of_the_service(proxy: Proxy, headers: dict[str, str]) -> None:
    assert proxy.ask("POST", "/predict/batch", b" " * 2**22, headers) == (200, {"size": 2**22})
    status, body = proxy.ask("POST", "/predict/batch", b" " * (2**22 + 1), headers)
    assert (status, body["type"]) == (413, "urn:iris-api:problem:body-too-large")


def test_nginx_has_the_request_head_limit_of_the_service(proxy: Proxy) -> None:
    assert proxy.ask("GET", "/model", headers={"X": "x" * 60_000})[0] == 200
    status, body = proxy.ask("GET", "/model", headers={"X": "x" * 140_000})
    assert (status, body["type"]) == (431, "urn:iris-api:problem:headers-too-large")


TLS_HELLO = bytes.fromhex("16030100450100004103") + bytes(60)


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /../../x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        TLS_HELLO,
    ],
)
def test_nginx_with_a_request_that_it_cannot_parse_is_400_with_a_problem(
    proxy: Proxy, sent: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), received
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "urn:iris-api:problem:malformed-request"
    assert proxy.asked() == 0
