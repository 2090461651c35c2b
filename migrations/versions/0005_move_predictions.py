"""Move the predictions, the Idempotency-Keys and the API keys into the tables of 0004.

In chunks that commit, so a run that was interrupted goes on where it ended. The service must be
stopped.

Revision: 0005
Created: 2026-11-27
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import postgresql

from iris_api.errors import ConfigurationError

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

LOCK = 0x1215_0A91
"""The advisory lock of migrations/env.py, where it ends with the transaction."""
CHUNK = 50_000
"""Rows of one transaction."""
SEQUENCES = 1_000
"""Sequences of one transaction: each takes a lock, and PostgreSQL has room for 6,400 by default."""
FEATURES = "sepal_length, sepal_width, petal_length, petal_width"
LABELS_OF = "ARRAY(SELECT json_object_keys(probabilities))"
NAME_CLIENTS = """
    INSERT INTO clients (name) SELECT DISTINCT client FROM iris_predictions_0003
    ON CONFLICT DO NOTHING
"""
# Labels of the probabilities come first, in their order; then others that rows were given by hand.
NAME_MODELS = f"""
    WITH found AS MATERIALIZED (
        SELECT model_version, {LABELS_OF} AS labels, prediction_label
        FROM iris_predictions_0003
        GROUP BY 1, 2, 3
    ), named AS (
        SELECT model_version, min(labels) FILTER (WHERE labels <> '{{}}') AS labels,
            max(labels) FILTER (WHERE labels <> '{{}}') AS same_labels,
            array_agg(DISTINCT prediction_label) AS given
        FROM found
        WHERE model_version IS NOT NULL OR labels <> '{{}}'
        GROUP BY model_version, CASE WHEN model_version IS NULL THEN labels END
    )
    INSERT INTO models (version, labels)
    SELECT model_version, coalesce(labels, '{{}}') || ARRAY(
        SELECT label FROM unnest(given) AS label
        WHERE label <> ALL (coalesce(labels, '{{}}')))
    FROM named
    WHERE CASE WHEN labels IS DISTINCT FROM same_labels
        THEN format('rows of ML model %s have probabilities of %s, others of %s: set those of '
            'one kind to NULL', model_version, labels, same_labels)::boolean
        ELSE NOT EXISTS (
            SELECT FROM models
            WHERE version IS NOT DISTINCT FROM model_version
                AND (version IS NOT NULL
                    OR models.labels[1:cardinality(named.labels)] = named.labels))
        END
"""  # noqa: S608, of constants, like those below
# The new id holds the time, and the old id in place of the random bits: it rises in the old order,
# and is the same in each run.
MICROSECONDS = "greatest((date_part('epoch', old.created_at) * 1000000)::bigint, 0)"
NEW_ID = f"""
    encode(
        int8send(
            ({MICROSECONDS} / 1000) << 16 | 28672 | ({MICROSECONDS} % 1000) * 4096 / 1000
        ) || int8send((1::bigint << 63) | old.id),
        'hex')::uuid
"""
MOVE_CHUNK = f"""
    WITH old AS MATERIALIZED (
        SELECT *, {LABELS_OF} AS labels,
            CASE WHEN probabilities IS NOT NULL
            THEN ARRAY(SELECT value::float8 FROM json_each_text(probabilities)) END AS by_class
        FROM iris_predictions_0003
        WHERE id > (SELECT coalesce(max(former_id), -1) FROM former_prediction_ids)
        ORDER BY id LIMIT {CHUNK}
    ), new AS MATERIALIZED (
        SELECT old.*, {NEW_ID} AS uuid, clients.id AS client_id, coalesce(model.id, 1) AS model_id
        FROM old JOIN clients ON clients.name = old.client
        LEFT JOIN LATERAL (
            SELECT id FROM models
            WHERE version = old.model_version
                OR (old.model_version IS NULL AND version IS NULL AND old.by_class IS NOT NULL
                    AND models.labels[1:cardinality(old.labels)] = old.labels)
            ORDER BY cardinality(models.labels), id LIMIT 1
        ) AS model ON true
    ), stored AS (
        INSERT INTO iris_predictions (client_id, id, created_at, {FEATURES}, model_id, prediction,
            prediction_label, class_probabilities)
        SELECT client_id, uuid, created_at, {FEATURES}, model_id, prediction, prediction_label,
            by_class
        FROM new
    )
    INSERT INTO former_prediction_ids (former_id, id) SELECT id, uuid FROM new
"""  # noqa: S608
MOVE_KEYS = """
    INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids, created_at)
    SELECT client, key, is_batch, ARRAY(
            SELECT coalesce(present.id, '00000000-0000-0000-0000-000000000000')
            FROM unnest(prediction_ids) WITH ORDINALITY AS former (id, place)
            LEFT JOIN former_prediction_ids AS present ON present.former_id = former.id
            ORDER BY place
        ), created_at
    FROM idempotency_keys_0003
"""
MOVE_ROWS = f"""
    PERFORM set_config('iris.is_moving', 'on', true);
    {MOVE_CHUNK};
    GET DIAGNOSTICS done = ROW_COUNT;
"""
OF_KEYS = """
    FROM pg_class
    WHERE relkind = 'S' AND relname ~ '^iris_prediction_ids_[0-9]+$'
        AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'api_keys'::regclass)
"""
DROP_SEQUENCES = f"""
    done := 0;
    FOR one IN SELECT oid::regclass::text {OF_KEYS} LIMIT {SEQUENCES} LOOP
        EXECUTE 'DROP SEQUENCE ' || one;
        done := done + 1;
    END LOOP;
"""
MOVE_BACK = f"""
    INSERT INTO iris_predictions_0003 (id, client, {FEATURES}, prediction, prediction_label,
        probabilities, model_version, created_at)
    OVERRIDING SYSTEM VALUE
    SELECT moved.former_id, clients.name, {FEATURES}, prediction, prediction_label,
        CASE WHEN class_probabilities IS NOT NULL THEN (
            SELECT json_object_agg(label, probability ORDER BY place)
            FROM unnest(labels[1:cardinality(class_probabilities)], class_probabilities)
                WITH ORDINALITY AS by_label (label, probability, place)
            WHERE probability IS NOT NULL) END,
        models.version, stored.created_at
    FROM iris_predictions AS stored JOIN clients ON clients.id = client_id
    LEFT JOIN models ON models.id = model_id
    JOIN moved ON moved.id = stored.id
"""  # noqa: S608
# As 0003 did, above the ranges that have been used.
GIVE_RANGES = """
    DO $$
    DECLARE
        of_key bigint;
        taken bigint := (SELECT greatest(1024, (max(id) >> 33) + 1) FROM iris_predictions_0003);
    BEGIN
        FOR of_key IN SELECT id FROM api_keys LOOP
            UPDATE api_keys SET id_range = taken WHERE id = of_key;
            EXECUTE format(
                'CREATE SEQUENCE iris_prediction_ids_%s MINVALUE %s MAXVALUE %s',
                taken, (taken << 33) + 1, ((taken + 1) << 33) - 1);
            taken := taken + 1;
        END LOOP;
    END $$
"""
GUARD = """
    CREATE TRIGGER refuse_while_moving BEFORE INSERT ON iris_predictions
    FOR EACH STATEMENT EXECUTE FUNCTION iris_refuse_while_moving()
"""
START_SEQUENCE = """
    SELECT setval(pg_get_serial_sequence('iris_predictions_0003', 'id'), max(former_id) + 1)
    FROM former_prediction_ids WHERE former_id < 1024::bigint << 33
"""
MOVE_KEYS_BACK = """
    INSERT INTO idempotency_keys_0003 (client, key, is_batch, prediction_ids, created_at)
    SELECT client, key, is_batch, ARRAY(
            SELECT coalesce(moved.former_id, 0)
            FROM unnest(prediction_ids) WITH ORDINALITY AS present (id, place)
            LEFT JOIN moved ON moved.id = present.id
            ORDER BY place
        ), created_at
    FROM idempotency_keys
"""


REFUSE_LOSS = """
    DO $$ BEGIN
        IF (SELECT count(*) FROM iris_predictions)
            <> (SELECT count(*) FROM iris_predictions_0003) THEN
            RAISE 'Some predictions have a client_id that clients lacks: insert it there first';
        END IF;
    END $$
"""
OLD_TABLE = "SELECT to_regclass('iris_predictions_0003')"


def upgrade() -> None:
    """Upgrade to this revision. A run that ended among the sequences has done all before them."""
    if context.is_offline_mode() or op.get_bind().scalar(sa.text(OLD_TABLE)) is not None:
        op.execute(NAME_CLIENTS)
        op.execute(NAME_MODELS)
        _in_chunks("predictions", MOVE_ROWS, "SELECT count(*) FROM iris_predictions_0003", CHUNK)
        op.execute(MOVE_KEYS)
        op.drop_table("idempotency_keys_0003")
        op.drop_table("iris_predictions_0003")
        op.drop_column("api_keys", "id_range")
        op.execute("DROP TRIGGER refuse_while_moving ON iris_predictions")
    _in_chunks("sequences", DROP_SEQUENCES, f"SELECT count(*) {OF_KEYS}", SEQUENCES)


def downgrade() -> None:
    """Move all back, in one transaction. Predictions without a former id get one; references go."""
    _create_old_tables()
    op.execute(START_SEQUENCE)
    op.execute("""
        CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
        SELECT id, coalesce(former_id,
            nextval(pg_get_serial_sequence('iris_predictions_0003', 'id'))) AS former_id
        FROM (
            SELECT stored.id, former_id FROM iris_predictions AS stored
            LEFT JOIN former_prediction_ids AS former ON former.id = stored.id
            ORDER BY stored.id
        ) AS sorted
    """)
    op.execute("CREATE UNIQUE INDEX ON moved (id)")
    op.execute("ANALYZE moved")
    op.execute(MOVE_BACK)
    op.execute(REFUSE_LOSS)
    op.execute(MOVE_KEYS_BACK)
    op.execute("TRUNCATE iris_predictions, idempotency_keys, former_prediction_ids")
    op.execute("DELETE FROM models WHERE id > 1")
    op.execute("DELETE FROM clients WHERE id > 1")
    op.execute(GUARD)
    op.add_column("api_keys", sa.Column("id_range", sa.Integer(), nullable=True))
    op.execute(GIVE_RANGES)
    op.alter_column("api_keys", "id_range", nullable=False)
    op.create_unique_constraint(op.f("uq_api_keys_id_range"), "api_keys", ["id_range"])


def _create_old_tables() -> None:
    op.create_table(
        "iris_predictions_0003",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False) for name in FEATURES.split(", ")),
        sa.Column("prediction", sa.Integer(), nullable=False),
        sa.Column("prediction_label", sa.Text(), nullable=False),
        sa.Column("probabilities", postgresql.JSON(none_as_null=True), nullable=True),
        sa.Column("model_version", sa.Text(), nullable=True),
        _created_at(),
        sa.Column("client", sa.Text(), server_default="anonymous", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_iris_predictions_0003")),
    )
    op.create_table(
        "idempotency_keys_0003",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("is_batch", sa.Boolean(), nullable=False),
        sa.Column("prediction_ids", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("client", "key", name=op.f("pk_idempotency_keys_0003")),
    )


def _created_at() -> sa.Column[datetime]:
    now = sa.text("now()")
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False)


def _in_chunks(what: str, body: str, count: str, size: int) -> None:
    """Run the body until it sets ``done`` to 0; for more than ``size``, in many transactions.

    Another process that migrates waits until all is done: the lock is the session's meanwhile.
    """
    function = f"pg_temp.move_{what}()"
    op.execute(f"""
        CREATE OR REPLACE FUNCTION {function} RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE
            one text;
            done bigint;
        BEGIN
            {body}
            RETURN done;
        END $$
    """)
    total = 0 if context.is_offline_mode() else op.get_bind().scalar(sa.text(count))
    if total <= size:
        op.execute(f"DO $$ BEGIN WHILE {function} > 0 LOOP END LOOP; END $$")
        return
    _require_session()
    report = context.config.attributes.get("report_moved", lambda *_: None)
    op.execute(f"SELECT pg_advisory_lock({LOCK})")
    with op.get_context().autocommit_block():
        done = 0
        while moved := op.get_bind().scalar(sa.text(f"SELECT {function}")):
            done += moved
            report(what, done, total)


def _require_session() -> None:
    """Raise `ConfigurationError` behind PgBouncer, which gives each transaction another session."""
    settings = context.config.attributes.get("settings")
    if settings is not None and settings.database_pgbouncer:
        raise ConfigurationError(
            "So many rows are moved in several transactions of one session, which PgBouncer does "
            "not keep together. Set IRIS_MIGRATION_DATABASE_URL to a URL that leads to PostgreSQL "
            "directly, and run `iris-api migrate` again."
        )
