"""Give each API key a range of its own for the ids of its predictions.

Revision: 0003
Created: 2026-11-25
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# As `iris_api.auth.api_keys.create_api_key` does for a new API key.
GIVE_RANGES = """
    DO $$
    DECLARE
        of_key bigint;
        taken integer;
    BEGIN
        FOR of_key IN SELECT id FROM api_keys LOOP
            LOOP
                taken := 1024 + floor(random() * (1048576 - 1024));
                EXIT WHEN NOT EXISTS (SELECT FROM api_keys WHERE id_range = taken);
            END LOOP;
            UPDATE api_keys SET id_range = taken WHERE id = of_key;
            EXECUTE format(
                'CREATE SEQUENCE iris_prediction_ids_%s MINVALUE %s MAXVALUE %s',
                taken, (taken::bigint << 33) + 1, ((taken::bigint + 1) << 33) - 1);
        END LOOP;
    END $$
"""
DROP_SEQUENCES = """
    DO $$
    DECLARE of_key integer;
    BEGIN
        FOR of_key IN SELECT id_range FROM api_keys LOOP
            EXECUTE format('DROP SEQUENCE iris_prediction_ids_%s', of_key);
        END LOOP;
    END $$
"""


def upgrade() -> None:
    """Upgrade to this revision. Predictions keep their ids."""
    op.add_column("api_keys", sa.Column("id_range", sa.Integer(), nullable=True))
    op.execute(GIVE_RANGES)
    op.alter_column("api_keys", "id_range", nullable=False)
    op.create_unique_constraint(op.f("uq_api_keys_id_range"), "api_keys", ["id_range"])


def downgrade() -> None:
    """Go back to one sequence for all API keys."""
    op.execute(DROP_SEQUENCES)
    op.drop_column("api_keys", "id_range")
