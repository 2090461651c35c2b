"""`iris-api serve` with a defect: the answer leaves before the commit. The suite has to see it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from iris_api.cli import main
from iris_api.database.recorder import Recorder
from iris_api.database.writes import NewPrediction, StoredAs

DELAY = 0.2  # seconds from the answer to the commit

_DRAW = text("SELECT nextval(pg_get_serial_sequence('iris_predictions', 'id'))")
_late: set[asyncio.Task[None]] = set()


async def record(self: Recorder, prediction: NewPrediction) -> StoredAs:
    """Draw an id, answer with it, and store the row later."""
    async with self._engine.connect() as connection:
        number = await connection.scalar(_DRAW)
    values = {**prediction._asdict(), "id": number, "created_at": datetime.now(UTC)}
    del values["idempotency_key"]  # no column of the table
    task = asyncio.create_task(_store(self, values))
    _late.add(task)
    task.add_done_callback(_late.discard)
    return StoredAs(values["id"], values["created_at"])


async def _store(self: Recorder, values: dict[str, Any]) -> None:
    await asyncio.sleep(DELAY)
    places = [
        "CAST(:probabilities AS json)" if name == "probabilities" else f":{name}" for name in values
    ]
    statement = text(
        f"INSERT INTO iris_predictions ({', '.join(values)}) "  # noqa: S608, names of columns
        f"OVERRIDING SYSTEM VALUE VALUES ({', '.join(places)})"
    )
    async with self._engine.begin() as connection:
        await connection.execute(statement, values)


if __name__ == "__main__":
    Recorder.record = record  # type: ignore[method-assign]
    main()
