"""docs/postgresql.md shows SQL for the tables: it does what the page says."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
from alembic import command
from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import execute, settings_for
from tests.integration.repeats import ask
from tests.support.application import assert_problem, fetch, running
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database.migrations import alembic_config, migrate

PAGE = (Path(__file__).parents[2] / "docs" / "postgresql.md").read_text()
[QUERY] = re.findall(r"```sql\n(SELECT .*?)```", PAGE, re.DOTALL)
[EMPTY_FORMER_IDS] = re.findall(r"```sql\n(TRUNCATE .*?)```", PAGE, re.DOTALL)


async def test_page_query_returns_the_newest_rows_with_the_names_of_their_ml_models(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    responses = [await ask(client, None, one, reference="mine") for one in (SETOSA, VIRGINICA)]
    answers = [response.json() for response in responses]
    assert [dict(row) for row in await connection.fetch(QUERY)] == [
        {
            "id": UUID(answer["id"]),
            "created_at": datetime.fromisoformat(answer["created_at"]),
            "prediction_label": answer["prediction_label"],
            "model_version": answer["model_version"],
            "reference": "mine",
            "setosa": answer["probabilities"]["setosa"],
        }
        for answer in reversed(answers)
    ]


async def test_page_query_reads_no_month_before_its_bound(connection: asyncpg.Connection) -> None:
    now = datetime.now(UTC)
    later = now + timedelta(days=365)
    [bound] = re.findall(r"iris_prediction_id\('(.*?)'\)", QUERY)
    query = QUERY.replace(bound, later.isoformat())
    plan = [row[0] for row in await connection.fetch(f"EXPLAIN ANALYZE {query}")]
    for month, is_read in ((now, False), (later, True)):
        [scan] = [line for line in plan if f" on iris_predictions_{month:%Y_%m} " in line]
        assert ("never executed" not in scan) == is_read


async def test_insert_by_hand_with_the_id_of_its_time_is_listed_at_that_time(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    noon = datetime.fromisoformat("2026-12-31T12:00:00Z")
    insert = (
        "INSERT INTO iris_predictions (id, created_at, sepal_length, sepal_width, petal_length,"
        " petal_width, prediction, prediction_label)"
        " VALUES (iris_prediction_id($1), $1, 5.1, 3.5, 1.4, 0.2, 0, 'setosa')"
    )
    await connection.execute(insert, noon)
    query = {"since": "2026-12-31T12:00:00Z", "until": "2026-12-31T12:00:00.000001Z"}
    [item] = (await client.get("/predictions", params=query)).json()["items"]
    assert datetime.fromisoformat(item["created_at"]) == noon


async def test_predictions_with_a_former_id_after_the_page_emptied_the_table_is_404(
    empty_database: URL,
) -> None:
    settings = settings_for(empty_database)

    def move() -> int:
        command.upgrade(alembic_config(settings), "0003")
        execute(
            empty_database,
            "INSERT INTO iris_predictions (sepal_length, sepal_width, petal_length, petal_width,"
            " prediction, prediction_label) VALUES (5.1, 3.5, 1.4, 0.2, 0, 'setosa')",
        )
        [(former_id,)] = fetch(empty_database, "SELECT id FROM iris_predictions")
        migrate(settings)
        return int(former_id)

    former_id = await asyncio.to_thread(move)
    async with running(settings) as client:
        assert (await client.get(f"/predictions/{former_id}")).status_code == 308
        await asyncio.to_thread(execute, empty_database, EMPTY_FORMER_IDS)
        response = await client.get(f"/predictions/{former_id}")
        assert_problem(response, 404, "prediction-not-found")
