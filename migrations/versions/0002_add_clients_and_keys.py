"""Give predictions a client, and add idempotency_keys and api_keys.

Rebuilding the indexes blocks writes for as long as it takes.

Revision: 0002
Created: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXES = {
    "ix_iris_predictions_newest": ["created_at", "id"],
    "ix_iris_predictions_by_label": ["prediction_label", "created_at", "id"],
    "ix_iris_predictions_by_model": ["model_version", "created_at", "id"],
    "ix_iris_predictions_by_model_and_label": [
        "model_version",
        "prediction_label",
        "created_at",
        "id",
    ],
}


def upgrade() -> None:
    """Upgrade to this revision. Earlier predictions belong to the client ``anonymous``."""
    op.add_column(
        "iris_predictions",
        sa.Column("client", sa.Text(), server_default="anonymous", nullable=False),
    )
    for name, columns in INDEXES.items():
        op.drop_index(name, "iris_predictions")
        op.create_index(name, "iris_predictions", ["client", *columns])
    op.create_table(
        "idempotency_keys",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_batch", sa.Boolean(), nullable=False),
        sa.Column("prediction_ids", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("client", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_oldest", "idempotency_keys", ["created_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )


def downgrade() -> None:
    """Go back to predictions without a client."""
    op.drop_table("api_keys")
    op.drop_table("idempotency_keys")
    for name, columns in INDEXES.items():
        op.drop_index(name, "iris_predictions")
        op.create_index(name, "iris_predictions", columns)
    op.drop_column("iris_predictions", "client")
