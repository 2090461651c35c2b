"""Make iris_predictions anew: UUIDs as ids, a partition for each month, lean rows.

The old tables stay beside it, for the next revision to move their rows.

Revision: 0004
Created: 2026-11-27
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

MONTHS_AHEAD = 24
FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
OLD_INDEXES = {
    "ix_iris_predictions_newest": ["client", "created_at", "id"],
    "ix_iris_predictions_by_label": ["client", "prediction_label", "created_at", "id"],
    "ix_iris_predictions_by_model": ["client", "model_version", "created_at", "id"],
    "ix_iris_predictions_by_model_and_label": [
        "client",
        "model_version",
        "prediction_label",
        "created_at",
        "id",
    ],
}
# RFC 9562: 48 bits of milliseconds, version 7, 12 bits for the rest of the time (section 6.2,
# method 3), variant, 62 random bits, which gen_random_uuid() has in the same places.
MAKE_FUNCTION = """
    CREATE FUNCTION iris_prediction_id(made_at timestamptz DEFAULT now()) RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(
        int8send(
            ((date_part('epoch', made_at) * 1000000)::bigint / 1000) << 16
            | 28672
            | ((date_part('epoch', made_at) * 1000000)::bigint % 1000) * 4096 / 1000
        ) || substring(uuid_send(gen_random_uuid()) FROM 9),
        'hex')::uuid
"""

# A partition begins where the last one ends; the first one at MINVALUE, in the month of oldest.
# ATTACH PARTITION, not PARTITION OF, which would lock the table against reads and writes. LOCK has
# a second process that adds months wait for the first.
MAKE_PARTITIONS_FUNCTION = r"""
    CREATE FUNCTION iris_add_partitions(months_ahead integer, oldest timestamptz DEFAULT now())
    RETURNS SETOF text
    LANGUAGE plpgsql AS $$
    DECLARE
        last_end text;
        month timestamp := date_trunc('month', oldest AT TIME ZONE 'UTC');
        last_month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC')
            + make_interval(months => months_ahead);
        next_end text;
        partition text;
        owner text := (
            SELECT relowner::regrole FROM pg_class WHERE oid = 'iris_predictions'::regclass);
    BEGIN
        LOCK TABLE ONLY iris_predictions IN SHARE UPDATE EXCLUSIVE MODE;
        last_end := (
            SELECT max(substring(pg_get_expr(relpartbound, oid) FROM 'TO \(''([0-9a-f-]+)''\)'))
            FROM pg_class JOIN pg_inherits ON inhrelid = oid
            WHERE inhparent = 'iris_predictions'::regclass);
        IF last_end IS NOT NULL THEN
            month := timestamp '1970-01-01' + interval '1 millisecond'
                * ('x' || left(replace(last_end, '-', ''), 12))::bit(48)::bigint;
        END IF;
        WHILE month <= last_month LOOP
            next_end := encode(
                int8send((extract(epoch FROM month + interval '1 month')::bigint * 1000) << 16)
                || int8send(0), 'hex')::uuid;
            partition := to_char(month, '"iris_predictions_"YYYY_MM');
            EXECUTE format('CREATE TABLE %s (LIKE iris_predictions INCLUDING ALL)', partition);
            EXECUTE format('ALTER TABLE %s OWNER TO %s', partition, owner);
            EXECUTE format(
                'ALTER TABLE iris_predictions ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%L)',
                partition, coalesce(quote_literal(last_end), 'MINVALUE'), next_end);
            RETURN NEXT to_char(month, 'YYYY-MM');
            last_end := next_end;
            month := month + interval '1 month';
        END LOOP;
    END $$
"""


# Before anything is changed: 0005 could not move such rows.
REFUSE_LATE_ROWS = f"""
    DO $$
    DECLARE late bigint := (
        SELECT min(id) FROM iris_predictions
        WHERE NOT isfinite(created_at)
            OR created_at >= date_trunc('month', now()) + interval '{MONTHS_AHEAD} months');
    BEGIN
        IF late IS NOT NULL THEN
            RAISE 'Prediction % was made at infinity, or more than {MONTHS_AHEAD} months from now: '
                'correct its created_at', late;
        END IF;
    END $$
"""  # noqa: S608, of constants
# Until 0005 has moved all rows, nothing else may be stored: a repeated request would be stored
# again. The service takes this error for an outdated schema.
GUARD_FUNCTION = """
    CREATE FUNCTION iris_refuse_while_moving() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('iris.is_moving', true) IS DISTINCT FROM 'on' THEN
            RAISE undefined_table USING MESSAGE = 'predictions are being moved';
        END IF;
        RETURN NULL;
    END $$
"""
GUARD = """
    CREATE TRIGGER refuse_while_moving BEFORE INSERT ON iris_predictions
    FOR EACH STATEMENT EXECUTE FUNCTION iris_refuse_while_moving()
"""


def upgrade() -> None:
    """Make the new tables; give the old ones other names."""
    op.execute(REFUSE_LATE_ROWS)
    for name in OLD_INDEXES:
        op.drop_index(name, "iris_predictions")
    op.rename_table("iris_predictions", "iris_predictions_0003")
    op.execute("ALTER INDEX pk_iris_predictions RENAME TO pk_iris_predictions_0003")
    op.drop_index("ix_idempotency_keys_oldest", "idempotency_keys")
    op.rename_table("idempotency_keys", "idempotency_keys_0003")
    op.execute("ALTER INDEX pk_idempotency_keys RENAME TO pk_idempotency_keys_0003")
    op.execute(MAKE_FUNCTION)
    _create_small_tables()
    _create_predictions()
    op.execute(MAKE_PARTITIONS_FUNCTION)
    oldest = "SELECT greatest(least(min(created_at), now()), 'epoch') FROM iris_predictions_0003"
    op.execute(f"SELECT iris_add_partitions({MONTHS_AHEAD}, ({oldest}))")
    op.execute(GUARD_FUNCTION)
    op.execute(GUARD)


def downgrade() -> None:
    """Drop the new tables; give the old ones their names and indexes again."""
    for name in (
        "iris_predictions",
        "idempotency_keys",
        "former_prediction_ids",
        "leases",
        "models",
        "clients",
    ):
        op.drop_table(name)
    op.execute("DROP FUNCTION iris_prediction_id CASCADE")  # also the default of detached months
    op.execute("DROP FUNCTION iris_add_partitions, iris_refuse_while_moving")
    op.rename_table("idempotency_keys_0003", "idempotency_keys")
    op.execute("ALTER INDEX pk_idempotency_keys_0003 RENAME TO pk_idempotency_keys")
    op.create_index("ix_idempotency_keys_oldest", "idempotency_keys", ["created_at"])
    op.rename_table("iris_predictions_0003", "iris_predictions")
    op.execute("ALTER INDEX pk_iris_predictions_0003 RENAME TO pk_iris_predictions")
    for name, columns in OLD_INDEXES.items():
        op.create_index(name, "iris_predictions", columns)


def _create_small_tables() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clients")),
        sa.UniqueConstraint("name", name=op.f("uq_clients_name")),
    )
    op.execute("INSERT INTO clients (name) VALUES ('anonymous')")
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("labels", postgresql.ARRAY(sa.Text()), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("version", name=op.f("uq_models_version")),
    )
    op.execute("INSERT INTO models (labels) VALUES ('{}')")  # 1, that of rows without any
    op.create_table(
        "idempotency_keys",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_batch", sa.Boolean(), nullable=False),
        sa.Column("prediction_ids", postgresql.ARRAY(sa.Uuid()), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("client", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_oldest", "idempotency_keys", ["created_at"])
    op.create_table(
        "former_prediction_ids",
        sa.Column("former_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("former_id", name=op.f("pk_former_prediction_ids")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )


def _create_predictions() -> None:
    op.execute(f"""
        CREATE TABLE iris_predictions (
            client_id integer NOT NULL DEFAULT 1,
            id uuid NOT NULL DEFAULT iris_prediction_id(),
            created_at timestamptz NOT NULL DEFAULT now(),
            transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
            {"".join(f"{name} double precision NOT NULL, " for name in FEATURES)}
            model_id integer NOT NULL DEFAULT 1,
            prediction integer NOT NULL,
            warnings smallint NOT NULL DEFAULT 0,
            prediction_label text NOT NULL,
            class_probabilities double precision[],
            reference text,
            CONSTRAINT pk_iris_predictions PRIMARY KEY (client_id, id)
        ) PARTITION BY RANGE (id)
    """)
    op.create_index(
        "ix_iris_predictions_by_label_and_model",
        "iris_predictions",
        ["client_id", "prediction_label", "model_id", "id"],
    )
    op.create_index(
        "ix_iris_predictions_by_reference",
        "iris_predictions",
        ["client_id", "reference", "id"],
        postgresql_where=sa.text("reference IS NOT NULL"),
    )


def _created_at() -> sa.Column[datetime]:
    return sa.Column(
        "created_at",
        sa.DateTime(timezone=True),
        server_default=sa.text("now()"),
        nullable=False,
    )
