"""Predictions on their way into PostgreSQL, as plain values."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from iris_api.callers import Caller
from iris_api.iris import ClassPrediction, Row


class NewPrediction(NamedTuple):
    """A prediction to store, as plain values: an ORM object takes ten times as long to make."""

    caller: Caller
    row: Row
    answer: ClassPrediction
    idempotency_key: str | None = None
    reference: str | None = None


class NewBatch(NamedTuple):
    """The predictions of one request, all by one ML model."""

    caller: Caller
    rows: Sequence[Row]
    answers: Sequence[ClassPrediction]
    references: Sequence[str | None]
    idempotency_key: str | None = None

    def predictions(self) -> Iterator[NewPrediction]:
        """Return one after the other, so that memory holds few of them."""
        return (
            NewPrediction(self.caller, row, answer, None, reference)
            for row, answer, reference in zip(self.rows, self.answers, self.references, strict=True)
        )


class StoredPrediction(NamedTuple):
    """What PostgreSQL adds to a row; for a repeated request, also the earlier prediction."""

    id: UUID
    created_at: datetime
    replayed: ClassPrediction | None = None
