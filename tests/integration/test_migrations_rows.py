"""Rows of an earlier release, moved to this one's tables and back."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import URL
from tests.conftest import execute, settings_for
from tests.integration.commands import environment, start
from tests.support.application import assert_problem, client_of, fetch, make_key, running, started
from tests.support.flowers import SETOSA

from iris_api.database.migrations import alembic_config, head_revision, migrate
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

ROWS = 1000
# Batches of seven rows have one time. Some rows are of other clients, ML models, or no ML model.
FILL = """
    INSERT INTO iris_predictions (client, sepal_length, sepal_width, petal_length, petal_width,
        prediction, prediction_label, probabilities, model_version, created_at)
    SELECT CASE WHEN n % 5 = 0 THEN 'somebody' ELSE 'anonymous' END,
        1 + n * 0.0001, 3.5, 1.4, random(), n % 2, (ARRAY['b', 'a'])[n % 2 + 1],
        CASE WHEN n % 3 > 0 THEN json_build_object('b', 1 - n::float8 / 7e7, 'a', n::float8 / 7e7)
        END,
        CASE WHEN n % 11 > 0 THEN 'model-' || n % 3 END,
        timestamptz '2025-11-27 12:00:00.123457Z' + (n / 7) * interval '1 hour'
    FROM generate_series(1, {}) AS n
"""
OLD = """
    SELECT client, sepal_length, sepal_width, petal_length, petal_width, prediction,
        prediction_label, probabilities ->> 'a', probabilities ->> 'b', model_version, created_at
    FROM iris_predictions ORDER BY created_at, id
"""
NEW = """
    SELECT name, sepal_length, sepal_width, petal_length, petal_width, prediction,
        prediction_label, class_probabilities[array_position(labels, 'a')]::text,
        class_probabilities[array_position(labels, 'b')]::text, version,
        iris_predictions.created_at
    FROM iris_predictions JOIN clients ON clients.id = client_id
    LEFT JOIN models ON models.id = model_id
    ORDER BY iris_predictions.id
"""


def checksum(url: URL, query: str) -> str:
    rows = [tuple(map(_rounded, row)) for row in fetch(url, query)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _rounded(value: object) -> object:
    """A probability as the number that it is: JSON has 1, PostgreSQL 1.0."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def at_0003(url: URL, rows: int) -> Settings:
    """Fill a database of release 0.1.0; the owner's URL leads to it directly."""
    settings = settings_for(url, migration_database_url=direct(url))
    command.upgrade(alembic_config(settings), "0003")
    execute(url, FILL.format(rows))
    return settings


def direct(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def former(empty_database: URL) -> Settings:
    return at_0003(empty_database, ROWS)


def test_migrate_keeps_features_answers_order_and_clients(
    empty_database: URL, former: Settings
) -> None:
    before = checksum(empty_database, OLD)
    migrate(former)
    assert checksum(empty_database, NEW) == before
    command.downgrade(alembic_config(former), "0003")
    assert checksum(empty_database, OLD) == before
    migrate(former)
    assert checksum(empty_database, NEW) == before


def test_migrate_interrupted_twice_goes_on_where_it_ended(empty_database: URL) -> None:
    settings = at_0003(empty_database, 120_000)
    before = checksum(empty_database, OLD)
    seen: list[tuple[str, int, int]] = []

    def interrupt(*report: object) -> None:
        seen.append(report)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    for chunks in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            migrate(settings, report_moved=interrupt)
        moved = fetch(empty_database, "SELECT count(*) FROM iris_predictions")
        assert moved == [(chunks * 50_000,)]
    assert seen[0] == ("predictions", 50_000, 120_000)
    assert migrate(settings) == head_revision()
    assert checksum(empty_database, NEW) == before


async def test_predict_while_rows_are_being_moved_is_503(
    empty_database: URL, former: Settings, trained_model: Path
) -> None:
    await asyncio.to_thread(command.upgrade, alembic_config(former), "0004")
    async with running(former.model_copy(update={"data_dir": trained_model})) as client:
        for path, body in (("/predict", SETOSA), ("/predict/batch", {"items": [SETOSA]})):
            assert_problem(await client.post(path, json=body), 503, "schema-outdated")
        await asyncio.to_thread(migrate, former)
        assert (await client.post("/predict", json=SETOSA)).status_code == 200


def test_migrate_by_two_processes_moves_each_row_once(empty_database: URL, tmp_path: Path) -> None:
    at_0003(empty_database, 120_000)
    before = checksum(empty_database, OLD)
    env = environment(
        empty_database,
        IRIS_LOG_FORMAT="console",
        IRIS_MIGRATION_DATABASE_URL=direct(empty_database),
    )
    processes = [start("iris_api", "migrate", env=env, cwd=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert checksum(empty_database, NEW) == before


def test_migrate_of_many_rows_through_pgbouncer_is_refused_with_the_setting_to_use(
    empty_database: URL,
) -> None:
    settings = at_0003(empty_database, 60_000)
    before = checksum(empty_database, OLD)
    pooled = {"migration_database_url": None, "database_pgbouncer": True}
    with pytest.raises(ConfigurationError, match="IRIS_MIGRATION_DATABASE_URL"):
        migrate(settings.model_copy(update=pooled))
    assert fetch(empty_database, "SELECT version_num FROM alembic_version") == [("0003",)]
    assert checksum(empty_database, OLD) == before


def test_migrate_with_a_prediction_years_ahead_changes_nothing(
    empty_database: URL, former: Settings
) -> None:
    execute(empty_database, "UPDATE iris_predictions SET created_at = '2099-01-01Z' WHERE id = 7")
    before = checksum(empty_database, OLD)
    with pytest.raises(Exception, match=r"Prediction 7 .*correct its created_at"):
        migrate(former)
    assert checksum(empty_database, OLD) == before


async def test_prediction_with_a_former_id_is_308_to_its_client_only(
    empty_database: URL, former: Settings
) -> None:
    query = "SELECT min(id) FROM iris_predictions WHERE client = 'anonymous'"
    [(number,)] = await asyncio.to_thread(fetch, empty_database, query)
    await asyncio.to_thread(migrate, former)
    keyed = settings_for(empty_database, auth="keys")
    async with started(keyed) as app:
        own = client_of(app, **await make_key(keyed, "anonymous"))
        other = client_of(app, **await make_key(keyed, "somebody"))
        response = await own.get(f"/predictions/{number}")
        assert response.status_code == 308
        assert (await own.get(response.headers["Location"])).status_code == 200
        assert_problem(await other.get(f"/predictions/{number}"), 404, "prediction-not-found")
        assert_problem(await own.get("/predictions/999999"), 404, "prediction-not-found")


async def test_idempotency_key_of_an_earlier_release_answers_with_the_new_id(
    empty_database: URL, former: Settings, trained_model: Path
) -> None:
    await asyncio.to_thread(
        execute,
        empty_database,
        "INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,"
        " prediction, prediction_label, probabilities, model_version)"
        f" VALUES ({', '.join(map(str, SETOSA.values()))}, 0, 'b',"
        """ '{"b":1,"a":0}', 'model-1');"""
        "INSERT INTO idempotency_keys (client, key, is_batch, prediction_ids) SELECT 'anonymous',"
        " 'mine', false, ARRAY[max(id)] FROM iris_predictions",
    )
    await asyncio.to_thread(migrate, former)
    async with running(former.model_copy(update={"data_dir": trained_model})) as client:
        response = await client.post("/predict", json=SETOSA, headers={"Idempotency-Key": "mine"})
        assert response.status_code == 200
        [newest] = (await client.get("/predictions", params={"limit": 1})).json()["items"]
        assert response.json()["id"] == newest["id"]
        assert response.json()["probabilities"] == {"b": 1, "a": 0}


def test_migrate_drops_the_sequences_of_api_keys_and_downgrade_makes_them(
    empty_database: URL,
) -> None:
    settings = settings_for(empty_database)
    command.upgrade(alembic_config(settings), "0002")
    execute(
        empty_database,
        "INSERT INTO api_keys (client, scopes, digest) VALUES ('a', '{}', 'a'), ('b', '{}', 'b')",
    )
    sequences = "SELECT relname FROM pg_class WHERE relname LIKE 'iris_prediction_ids_%'"
    command.upgrade(alembic_config(settings), "0003")
    assert len(fetch(empty_database, sequences)) == 2
    migrate(settings)
    assert not fetch(empty_database, sequences)
    command.downgrade(alembic_config(settings), "0003")
    ranges = [number for (number,) in fetch(empty_database, "SELECT id_range FROM api_keys")]
    assert len(set(ranges)) == 2
    for number in ranges:
        nextval = f"SELECT nextval('iris_prediction_ids_{number}')"
        assert fetch(empty_database, nextval) == [((number << 33) + 1,)]


def test_migrate_with_more_sequences_than_one_transaction_has_locks_for_drops_all(
    empty_database: URL,
) -> None:
    settings = at_0003(empty_database, 10)
    make = "DO $$ BEGIN FOR n IN {}..{} LOOP EXECUTE 'CREATE SEQUENCE iris_prediction_ids_' || n;"
    for first in range(10_000, 12_500, 500):
        execute(empty_database, f"{make.format(first, first + 499)} END LOOP; END $$")
    told: list[tuple[str, int, int]] = []
    migrate(settings, report_moved=lambda *report: told.append(report))
    assert told == [("sequences", done, 2500) for done in (1000, 2000, 2500)]
    sequences = "SELECT FROM pg_class WHERE relname LIKE 'iris_prediction_ids_%'"
    assert not fetch(empty_database, sequences)


def test_migrate_with_two_sets_of_labels_for_one_ml_model_changes_nothing(
    empty_database: URL, former: Settings
) -> None:
    execute(
        empty_database,
        "UPDATE iris_predictions SET probabilities = '{\"c\": 1}' WHERE id = 1",
    )
    before = checksum(empty_database, OLD)
    with pytest.raises(Exception, match="set those of one kind to NULL"):
        migrate(former)
    assert checksum(empty_database, OLD) == before
