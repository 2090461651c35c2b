"""An HTTP answer that a test has read from a socket by itself."""

import json
from dataclasses import dataclass
from typing import Any

END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, slug: str) -> dict[str, Any]:
        """The body, held to be this problem."""
        assert self.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = json.loads(self.body)
        assert body["type"] == f"urn:iris-api:problem:{slug}"
        assert body["status"] == self.status
        return body


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer's head, which comes without its end."""
    line, *lines = head.decode("latin-1").split("\r\n")
    version, status, *_ = line.split(" ")
    assert version == "HTTP/1.1", line
    pairs = (one.partition(":") for one in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in pairs}
