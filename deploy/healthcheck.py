#!/usr/bin/env python3
"""The image's health check: requests /readyz, and prints in one line why the service is not ready.

It imports nothing of the service, because that takes a second of CPU time each time. It ignores the
environment's proxies.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104, no binding
_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")  # as environment.py, which ignores it
_SECONDS = 4  # less than the Dockerfile's timeout, so that the line about a timeout gets printed


def address_of(environment: Mapping[str, str]) -> tuple[str, str]:
    """Host and port of the service with these settings; an empty or blank one counts as unset."""
    host = environment.get("IRIS_HOST", "").strip() or "127.0.0.1"
    port = environment.get("IRIS_PORT", "").strip() or "8000"
    if _INJECTED_PORT.fullmatch(port):
        port = "8000"
    return _REACHABLE.get(host, host), port


def find_fault(host: str, port: str) -> str | None:
    """Why the service there is not ready; None if it is."""
    try:
        connection = HTTPConnection(host, int(port), timeout=_SECONDS)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException, ValueError) as error:
        return f"{host} port {port}: {error}"
    if response.status == HTTPStatus.OK:
        return None
    return f"{host} port {port} answers {response.status}: {_detail_of(body)}"


def _detail_of(body: bytes) -> str:
    """A problem's detail; for any other body, a sentence that it is not a problem."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "not a problem of this service's"


if __name__ == "__main__":
    sys.exit(find_fault(*address_of(os.environ)))
