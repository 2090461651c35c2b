"""What was answered and what was stored, held against what was sent."""

import asyncio
import json
from uuid import UUID

import asyncpg
from hypothesis import HealthCheck, settings
from tests.fuzz.flowers import MARK, MEASURES, Row, rows_of
from tests.fuzz.wire import JSON, request
from tests.support.answers import Answer
from tests.support.flowers import SETOSA
from tests.support.raw import connected
from tests.support.service import Service

PATHS = ["/predict", "/predict/batch"]
BODY = json.dumps(SETOSA).encode()
GOOD_REQUEST = request("/predict", BODY, JSON)
SETOSA_ROW: Row = (*(SETOSA[name] for name in MEASURES), None)
REFUSALS = {400, 408, 413, 415, 422}
NO_REQUEST = {"malformed-request", "misdirected", "headers-too-large"}
"""The slugs of problems after which the server hangs up."""


def many(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Stored:
    """What is in the table, seen over a connection beside the service's own."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection) -> None:
        self.runner = runner
        self.connection = connection
        self.seen = UUID(int=0)
        self.new()

    def new(self) -> dict[str, Row]:
        """The rows since the last time, by id."""
        columns = ", ".join((*MEASURES, "reference"))
        query = (
            f"SELECT id, {columns} FROM iris_predictions"
            " WHERE client_id = 1 AND id > $1 ORDER BY id"
        )
        rows = self.runner.run(self.connection.fetch(query, self.seen))
        self.seen = rows[-1]["id"] if rows else self.seen
        return {str(row["id"]): tuple(row)[1:] for row in rows}


def ask(service: Service, *parts: bytes) -> Answer:
    with connected(service, patience=60) as wire:
        wire.send_while_open(*parts)
        answer = wire.answer_or_end()
        assert answer is not None, "it hung up"
        return answer


def assert_kept(
    answer: Answer, body: bytes, rows: dict[str, Row], reference: str | None = None
) -> int:
    """Hold an answer and what is stored since against what was sent; return the status."""
    if answer.status == 200:
        items = answer.json().get("items", [answer.json()])
        assert [item["id"] for item in items] == list(rows)
        assert list(rows.values()) == rows_of(body, reference)
    else:
        assert not rows
        assert_refused(answer)
    return answer.status


def assert_refused(answer: Answer) -> None:
    assert answer.status in REFUSALS, answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert MARK.encode() not in answer.body
