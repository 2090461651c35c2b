"""What the parent of several workers has logged of them."""

import json
import re
from typing import Any

from tests.support.service import Service, poll_until


def told(service: Service) -> list[dict[str, Any]]:
    """What it says of its workers; a worker's last words may stand between."""
    lines = map(json.loads, re.findall(r"^{.*}$", service.errors, re.MULTILINE))
    return [line for line in lines if line["event"].startswith("worker_")]


def ends_told(service: Service) -> list[dict[str, Any]]:
    """What it says of those that have ended, or hang."""
    return [line for line in told(service) if line["level"] == "warning"]


def heard(service: Service) -> set[int]:
    """The workers that have told it that they serve."""
    return {line["pid"] for line in told(service) if line["event"] == "worker_ready"}


def until_heard(service: Service, count: int) -> None:
    """Return when so many workers have told it, those included that have ended since."""
    poll_until(lambda: len(heard(service)) >= count, f"{count} workers have served")
