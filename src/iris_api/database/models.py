"""The tables."""

from datetime import datetime
from typing import Self

from sqlalchemy import BigInteger, DateTime, Double, Identity, Index, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.orm import Mapped, mapped_column

from iris_api.callers import ANONYMOUS
from iris_api.database.session import Base
from iris_api.iris import LABELS, ClassPrediction, IrisFeatures


class IrisPrediction(Base):
    """One prediction: client, features, class, ML model's version and time."""

    __tablename__ = "iris_predictions"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    client: Mapped[str] = mapped_column(Text, server_default=ANONYMOUS)
    sepal_length: Mapped[float] = mapped_column(Double)
    sepal_width: Mapped[float] = mapped_column(Double)
    petal_length: Mapped[float] = mapped_column(Double)
    petal_width: Mapped[float] = mapped_column(Double)
    prediction: Mapped[int]
    prediction_label: Mapped[str] = mapped_column(Text)
    # json, not jsonb: it keeps the classes' order and each digit, so what is read back is, byte for
    # byte, what was answered. No query searches within it.
    probabilities: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    model_version: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    # A client's history is ordered by (created_at, id). For each combination of column filters,
    # one index has the rows in that order; `since` and `until` bound the range in any index.
    __table_args__ = (
        Index("ix_iris_predictions_newest", "client", "created_at", "id"),
        Index("ix_iris_predictions_by_label", "client", "prediction_label", "created_at", "id"),
        Index("ix_iris_predictions_by_model", "client", "model_version", "created_at", "id"),
        Index(
            "ix_iris_predictions_by_model_and_label",
            "client",
            "model_version",
            "prediction_label",
            "created_at",
            "id",
        ),
    )

    @classmethod
    def from_request(cls, features: IrisFeatures, prediction: ClassPrediction | int) -> Self:
        """Return the row for a request and its answer; PostgreSQL sets ``id`` and ``created_at``.

        A bare class index is for callers with their own classifier on the same data: the label
        comes from `LABELS` (`IndexError` beyond it); the probabilities and the ML model's version
        stay NULL.
        """
        if not isinstance(prediction, ClassPrediction):
            index = int(prediction)
            if index < 0:
                raise IndexError(f"There is no class {index}.")
            prediction = ClassPrediction(index, LABELS[index], None, None)
        return cls(
            **features.model_dump(),
            prediction=prediction.prediction,
            prediction_label=prediction.label,
            probabilities=prediction.probabilities,
            model_version=prediction.model_version,
        )


class IdempotencyKey(Base):
    """An ``Idempotency-Key`` that a client has used, and the ids of the rows stored under it.

    The rows contain the payload and the answer, so nothing else is kept.
    """

    __tablename__ = "idempotency_keys"

    client: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    is_batch: Mapped[bool]
    prediction_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (Index("ix_idempotency_keys_oldest", "created_at"),)


class ApiKey(Base):
    """An API key of a client: its hash, never the key itself."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    client: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    """SHA-256. A key has 256 random bits, too many to guess, so no slow hash is needed."""
    id_range: Mapped[int] = mapped_column(unique=True)
    """The range of its predictions' ids, so that they tell nothing of other keys' predictions."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
