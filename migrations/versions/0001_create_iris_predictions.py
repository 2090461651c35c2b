"""Create iris_predictions.

Revision: 0001
Created: 2026-11-22
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
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
    """Create the table and its indexes."""
    op.create_table(
        "iris_predictions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sepal_length", sa.Double(), nullable=False),
        sa.Column("sepal_width", sa.Double(), nullable=False),
        sa.Column("petal_length", sa.Double(), nullable=False),
        sa.Column("petal_width", sa.Double(), nullable=False),
        sa.Column("prediction", sa.Integer(), nullable=False),
        sa.Column("prediction_label", sa.Text(), nullable=False),
        sa.Column("probabilities", postgresql.JSON(none_as_null=True), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_iris_predictions")),
    )
    for name, columns in INDEXES.items():
        op.create_index(name, "iris_predictions", columns)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("iris_predictions")
