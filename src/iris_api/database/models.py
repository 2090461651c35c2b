"""The tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    Double,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.types import UserDefinedType

from iris_api.database.session import Base
from iris_api.iris import LABELS, ClassPrediction, IrisFeatures


class TransactionId(UserDefinedType[int]):
    """PostgreSQL's xid8, which never wraps around."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return the type's name in DDL."""
        return "xid8"


class Client(Base):
    """A client, by name: the rows of its predictions hold its number."""

    __tablename__ = "clients"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class MLModel(Base):
    """An ML model that has predicted: what its rows need not repeat."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    version: Mapped[str | None] = mapped_column(Text, unique=True)
    """None: another program stored the rows without one. Model 1 is that of rows without any."""
    labels: Mapped[list[str]] = mapped_column(ARRAY(Text))
    """Every label that its rows have, those of the probabilities first, in their order."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class IrisPrediction(Base):
    """One prediction: features, class, client, ML model and time.

    The table is partitioned by month of the id, which holds the time (`iris_api.database.\
prediction_id`). Columns are ordered so that PostgreSQL pads none of them.
    """

    __tablename__ = "iris_predictions"

    client_id: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, server_default=text("1")
    )
    """A `Client`; 1 is `ANONYMOUS`."""
    id: Mapped[UUID] = mapped_column(
        Uuid, primary_key=True, server_default=func.iris_prediction_id()
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    transaction: Mapped[int] = mapped_column(
        TransactionId, server_default=func.pg_current_xact_id(), deferred=True
    )
    """For who follows the table: among rows whose transaction is below ``pg_snapshot_xmin``, none
    appears later."""
    sepal_length: Mapped[float] = mapped_column(Double)
    sepal_width: Mapped[float] = mapped_column(Double)
    petal_length: Mapped[float] = mapped_column(Double)
    petal_width: Mapped[float] = mapped_column(Double)
    model_id: Mapped[int] = mapped_column(server_default=text("1"))
    """An `MLModel`; 1: none. No foreign key: it would lock the model's row for each prediction."""
    prediction: Mapped[int]
    warnings: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    """Bits, for a later release: what was unusual about the features. 0 so far."""
    prediction_label: Mapped[str] = mapped_column(Text)
    class_probabilities: Mapped[list[float | None] | None] = mapped_column(ARRAY(Double))
    """In the order of the ML model's labels; NULL for one that the prediction has none of."""
    reference: Mapped[str | None] = mapped_column(Text)

    model: Mapped[MLModel | None] = relationship(
        primaryjoin=lambda: IrisPrediction.model_id == MLModel.id,
        foreign_keys=lambda: IrisPrediction.model_id,
        lazy="joined",
        cascade="",
    )
    """None before the row is stored, if the prediction is of no ML model."""

    # A client's history is in the order of its ids. An index has the rows of each label and ML
    # model in that order: a page of one label merges those of its ML models, a page of one ML model
    # those of its labels. Indexes of their own for these would cost 80 bytes a row each.
    __table_args__ = (
        Index(
            "ix_iris_predictions_by_label_and_model",
            "client_id",
            "prediction_label",
            "model_id",
            "id",
        ),
        Index(
            "ix_iris_predictions_by_reference",
            "client_id",
            "reference",
            "id",
            postgresql_where=text("reference IS NOT NULL"),
        ),
        {"postgresql_partition_by": "RANGE (id)"},
    )

    @classmethod
    def from_request(
        cls,
        features: IrisFeatures,
        prediction: ClassPrediction | int,
        reference: str | None = None,
    ) -> Self:
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
        by_label = prediction.probabilities
        return cls(
            **features.model_dump(),
            prediction=prediction.prediction,
            prediction_label=prediction.label,
            class_probabilities=None if by_label is None else list(by_label.values()),
            reference=reference,
            **_model_of(prediction),
        )

    @property
    def model_version(self) -> str | None:
        """The version of the ML model; None where another program stored the row without it."""
        return None if self.model is None else self.model.version

    @property
    def probabilities(self) -> dict[str, float] | None:
        """The probability of each class, by label; None where they were not stored."""
        labels = () if self.model is None else self.model.labels
        return by_label(labels, self.class_probabilities)


def _model_of(prediction: ClassPrediction) -> dict[str, MLModel]:
    """The row's ``model``, unless the prediction is of none."""
    if prediction.model_version is None and prediction.probabilities is None:
        return {}
    labels = list(prediction.probabilities or LABELS)
    return {"model": MLModel(version=prediction.model_version, labels=labels)}


def by_label(
    labels: Sequence[str], probabilities: Sequence[float | None] | None
) -> dict[str, float] | None:
    """Return stored probabilities by label; None where there are none."""
    if probabilities is None:
        return None
    pairs = zip(labels, probabilities, strict=False)
    return {label: probability for label, probability in pairs if probability is not None}


class IdempotencyKey(Base):
    """An ``Idempotency-Key`` that a client has used, and the ids of the rows stored under it.

    The rows contain the payload and the answer, so nothing else is kept.
    """

    __tablename__ = "idempotency_keys"

    client: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    is_batch: Mapped[bool]
    prediction_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (Index("ix_idempotency_keys_oldest", "created_at"),)


class FormerPredictionId(Base):
    """The id that a prediction had before ids were UUIDs, for links that clients have kept."""

    __tablename__ = "former_prediction_ids"

    former_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[UUID]


class Lease(Base):
    """A task that one process does for all replicas, until this time."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    until: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ApiKey(Base):
    """An API key of a client: its hash, never the key itself."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    client: Mapped[str] = mapped_column(Text)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    """SHA-256. A key has 256 random bits, too many to guess, so no slow hash is needed."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
