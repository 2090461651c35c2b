"""Load on one endpoint: by wrk if it is installed, else by this file's async client.

As a program: ``python -m benchmarks.load URL BODY CONNECTIONS SECONDS HEADERS`` prints a sample as
JSON.
"""

import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from benchmarks.processes import on_load_core
from iris_api.iris import EXAMPLE

ROW = EXAMPLE.model_dump()
BODY = json.dumps(ROW)
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Sample:
    """One round of load; times in milliseconds."""

    requests: int
    per_second: float
    p50: float
    p99: float
    failures: int


def put_load(
    url: str, body: str, *, connections: int, seconds: float, headers: Mapping[str, str] = _NONE
) -> Sample:
    """Send ``body`` again and again over so many connections, from the load's core.

    In a header, ``{n}`` becomes a number that no other request has.
    """
    headers = {"Content-Type": "application/json", **headers}
    if shutil.which("wrk") is None:
        command = [sys.executable, "-m", "benchmarks.load", url, body, str(connections)]
        return Sample(**json.loads(on_load_core([*command, str(seconds), json.dumps(headers)])))
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'wrk.method = "POST"\nwrk.body = {json.dumps(body)}\n'
            f"{_headers_in_lua(headers)}"
            # wrk prints only some percentiles; this gives them all, in microseconds
            "done = function(summary, latency, requests)\n"
            '  io.write(string.format("SAMPLE %d %d %f %f %d\\n", summary.requests,'
            " summary.duration, latency:percentile(50), latency:percentile(99),"
            " summary.errors.status + summary.errors.connect + summary.errors.read"
            " + summary.errors.write + summary.errors.timeout))\nend\n"
        )
        script.flush()
        output = on_load_core(
            [
                "wrk", "--threads", "1", "--connections", str(connections),
                "--duration", f"{max(1, round(seconds))}s", "--script", script.name, url,
            ]
        ).decode()  # fmt: skip
    numbers = re.search(r"SAMPLE (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", output)
    assert numbers is not None, output
    requests, microseconds, p50, p99, failures = map(float, numbers.groups())
    return Sample(
        int(requests), requests / microseconds * 1e6, p50 / 1000, p99 / 1000, int(failures)
    )


def _headers_in_lua(headers: Mapping[str, str]) -> str:
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(headers[name])}" for name in headers]
    for name, value in headers.items():
        if "{n}" in value:
            before, _, after = value.partition("{n}")
            first = time.time_ns()
            lines.append(
                f"local n = 0\nrequest = function()\n  n = n + 1\n"
                f'  wrk.headers[{json.dumps(name)}] = "{before}{first}-" .. n .. "{after}"\n'
                "  return wrk.format()\nend"
            )
    return "\n".join(lines) + "\n"


class _Connection(asyncio.Protocol):
    """One connection that sends its request again as soon as it has the response."""

    def __init__(self, request: bytes, latencies: list[float], failures: list[int]) -> None:
        self.request = request
        self.latencies = latencies
        self.failures = failures
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request.replace(b"{n}", b"%d" % time.time_ns()))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not separator or length is None or len(rest) < int(length[1]):
            return
        self.latencies.append(time.perf_counter() - self.began)
        if not head.startswith(b"HTTP/1.1 200"):
            self.failures.append(1)
        self.buffer = rest[int(length[1]) :]
        self._send()


async def _run(
    url: str, body: str, connections: int, seconds: float, headers: Mapping[str, str]
) -> Sample:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    content = body.encode()
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        + f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    latencies: list[float] = []
    failures: list[int] = []
    began = time.perf_counter()
    transports = [
        (
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(request, latencies, failures), parts.hostname, parts.port
            )
        )[0]
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - began
    for transport in transports:
        transport.abort()
    latencies.sort()
    return Sample(
        len(latencies),
        len(latencies) / elapsed,
        latencies[len(latencies) // 2] * 1000,
        latencies[len(latencies) * 99 // 100] * 1000,
        len(failures),
    )


if __name__ == "__main__":
    url, body, connections, seconds, headers = sys.argv[1:]
    sample = asyncio.run(_run(url, body, int(connections), float(seconds), json.loads(headers)))
    sys.stdout.write(json.dumps(asdict(sample)))
