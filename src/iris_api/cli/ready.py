"""What `iris-api serve` says when it is ready."""

import json
import socket
import textwrap
import threading
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any

import typer

from iris_api.cli.console import Console, styled
from iris_api.iris import EXAMPLE
from iris_api.observability.console_log import START_PROBE

_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, no binding
"""Addresses to listen on that are no address to connect to, and the one that this machine takes."""
_EXAMPLE_WIDTH = 70  # characters


def report_when_ready(listener: socket.socket, console: Console) -> None:
    """Print once, from a thread, what ``/readyz`` answers first, and how to send a request."""
    host, port = listener.getsockname()[:2]
    thread = threading.Thread(
        target=_wait_and_report, args=(host, port, console), name="when-ready", daemon=True
    )
    thread.start()


def _wait_and_report(host: str, port: int, console: Console) -> None:
    address = _ALL_ADDRESSES.get(host, host)
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    status, body = _first_answer(address, port)
    if status != HTTPStatus.OK:
        detail = f"{url} is alive, but not ready: {body['detail']}"
        console.info(detail, event="not_ready", url=url)
    elif console.is_terminal:
        typer.echo(_greeting(console, url, host, body["checks"]))
    else:
        checks = {name: check["detail"] for name, check in body["checks"].items()}
        console.log.info("ready", url=url, listening_on=host, port=port, checks=checks)


def _first_answer(address: str, port: int) -> tuple[int, dict[str, Any]]:
    """The status and body of ``/readyz``, as soon as there is an answer."""
    while True:
        connection = HTTPConnection(address, port, timeout=60)
        try:
            connection.request("GET", "/readyz", headers={"X-Request-ID": START_PROBE})
            response = connection.getresponse()
            return response.status, json.load(response)
        except (OSError, HTTPException, ValueError):  # no answer yet, or not this service's
            time.sleep(0.1)
        finally:
            connection.close()


def _greeting(console: Console, url: str, host: str, checks: dict[str, dict[str, str]]) -> str:
    settings = console.settings
    facts = {"documentation": f"{url}/docs", "ML model": checks["model"]["detail"]}
    if settings.database_url is None:
        facts["predictions"] = f"PostgreSQL in {settings.data_dir / 'postgres'}"
        stopped = "all of it"
    else:
        facts["predictions"] = "PostgreSQL at IRIS_DATABASE_URL"
        stopped = "the service, not the database"
    if host in _ALL_ADDRESSES:
        facts["listening on"] = f"all addresses of this machine ({host})"
    lines = "\n".join(f"  {name:<15}{value}" for name, value in facts.items())
    return f"""
{styled(f"Ready on {url}", bold=True)}
{lines}

Try it:
{_first_requests(url, needs_key=settings.auth == "keys")}

Ctrl-C stops {stopped}.
"""


def _first_requests(url: str, *, needs_key: bool) -> str:
    """Commands for a shell, in lines that fit into 80 columns."""
    body = json.dumps(EXAMPLE.model_dump(), separators=(", ", ":"))
    data = textwrap.fill(body, _EXAMPLE_WIDTH, subsequent_indent=" " * 7)
    header = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    lines = [
        f"curl {url}/predict{header} \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d '{data}'",
        f"curl {url}/predictions{header}",
    ]
    if needs_key:
        lines.insert(0, "KEY=$(iris-api keys create --client me)")
    return textwrap.indent("\n".join(lines), "  ")
