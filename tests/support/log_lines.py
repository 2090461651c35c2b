"""The service's log, a line of JSON for each event."""

import json
from typing import Any

from tests.support.service import Service, poll_until


def lines_of(service: Service) -> list[dict[str, Any]]:
    """The log: a line of JSON for each event."""
    return [json.loads(line) for line in service.errors.splitlines()]


OF_A_REQUEST = {"request", "connection_refused"}


def line_of(service: Service, request_id: str) -> dict[str, Any]:
    """The one line of a request."""
    poll_until(lambda: request_id in service.errors, "the request is logged")
    [line] = [
        line
        for line in lines_of(service)
        if line.get("request_id") == request_id and line["event"] in OF_A_REQUEST
    ]
    return line
