import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import Connection, event, text
from tests.support.application import engine_of

from iris_api.app import create_app
from iris_api.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A row a minute. One label in 100 is virginica, one model in 50 is rare; the two meet 4 times.
FILL = """
INSERT INTO iris_predictions (id, sepal_length, sepal_width, petal_length, petal_width, prediction,
                              prediction_label, model_id, created_at)
SELECT iris_prediction_id(at), 5.1, 3.5, 1.4, 0.2, 0,
       CASE WHEN n % 100 = 0 THEN 'virginica' WHEN n % 2 = 0 THEN 'setosa' ELSE 'versicolor' END,
       models.id, at
FROM generate_series(1, 20000) AS n
CROSS JOIN LATERAL (SELECT timestamptz '2026-01-01 00:00Z' + n * interval '1 minute' AS at) AS times
JOIN models ON version = CASE WHEN n % 50 = 7 OR n % 5000 = 0 THEN 'rare' ELSE 'usual' END
"""
NAME = """
INSERT INTO models (version, labels)
VALUES ('usual', '{setosa,versicolor,virginica}'), ('rare', '{setosa,versicolor,virginica}')
"""
FILTERS = {
    "label": ["setosa", "virginica"],
    "model_version": ["usual", "rare"],
    "since": ["2026-01-03T00:00:00Z", "2026-01-14T00:00:00Z"],
    "until": ["2026-01-04T00:00:00Z", "2026-01-13T00:00:00Z"],
}


@dataclass(frozen=True)
class Statement:
    """A statement as the driver was given it."""

    sql: str
    parameters: Any


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(shared_settings: Settings) -> AsyncIterator[FastAPI]:
    """The application on a table of many rows."""
    app = create_app(shared_settings)
    async with app.router.lifespan_context(app):
        async with engine_of(app).begin() as connection:
            await connection.execute(text(NAME))
            await connection.execute(text(FILL))
        async with engine_of(app).connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text("VACUUM ANALYZE iris_predictions"))
        yield app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(full: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(
        transport=ASGITransport(app=full), base_url="http://localhost"
    ) as client:
        yield client


@pytest.fixture
def statements(full: FastAPI) -> Iterator[list[Statement]]:
    """The statements that the application issues, as they come."""
    issued: list[Statement] = []

    def listen(
        _connection: Connection, _cursor: object, sql: str, parameters: object, *_others: object
    ) -> None:
        issued.append(Statement(sql, parameters))

    engine = engine_of(full).sync_engine
    event.listen(engine, "before_cursor_execute", listen)
    yield issued
    event.remove(engine, "before_cursor_execute", listen)


async def explain(
    app: FastAPI, statement: Statement, *, sorting: bool = True
) -> list[dict[str, Any]]:
    """Run the statement, and return the nodes of the plan by which PostgreSQL did it.

    Without ``sorting`` it sorts only where no index has the order.
    """
    async with engine_of(app).connect() as connection:
        await connection.execute(text(f"SET LOCAL enable_sort = {'on' if sorting else 'off'}"))
        explained = await connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", statement.parameters
        )
        [document] = explained.scalar_one()
    return list(_nodes(document["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _nodes(part)


def scans_of(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The scans of predictions, not those of clients and ML models."""
    return [node for node in nodes if node.get("Relation Name", "").startswith("iris_predictions")]


def assert_by_index(nodes: list[dict[str, Any]], most: int) -> None:
    """An index for each partition; all of them touch no more rows than that."""
    touched = 0
    for scan in scans_of(nodes):
        rows = scan["Actual Loops"] * (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0))
        # An empty partition may be read in any way.
        assert not rows or scan["Node Type"] in {"Index Scan", "Index Only Scan"}, json.dumps(scan)
        touched += rows
    assert touched <= most, json.dumps(nodes, indent=1)


def assert_in_order(nodes: list[dict[str, Any]]) -> None:
    """No row is sorted: they come in the index's order."""
    assert not {node["Node Type"] for node in nodes} & {"Sort", "Incremental Sort", "Gather Merge"}


def combinations() -> Iterator[dict[str, str]]:
    """Every combination of filters, with a common and a rare value of each."""
    for chosen in product(*([None, *values] for values in FILTERS.values())):
        yield {name: value for name, value in zip(FILTERS, chosen, strict=True) if value}


@pytest.mark.parametrize("page", ["first page", "page behind a cursor", "counted page"])
async def test_predictions_with_any_filters_and_page_scans_an_index_in_order(
    full: FastAPI,
    reader: AsyncClient,
    statements: list[Statement],
    page: str,
) -> None:
    position: dict[str, str | int] = {}
    if page == "page behind a cursor":
        middle = (await reader.get("/predictions", params={"limit": 1, "skip": 9999})).json()
        position = {"cursor": middle["next_cursor"]}
    elif page == "counted page":
        position = {"skip": 20}
    for query in combinations():
        statements.clear()
        response = await reader.get("/predictions", params={**query, **position, "limit": 20})
        assert response.status_code == 200
        [statement] = [one for one in statements if "iris_predictions" in one.sql]
        # A few rows may be sorted, where PostgreSQL finds that cheaper; it never has to.
        nodes = await explain(full, statement)
        if not scans_of(nodes):  # no partition has such times
            assert response.json()["items"] == []
            continue
        assert_by_index(nodes, most=150)
        if ("label" in query) == ("model_version" in query):  # else several pairs are merged
            assert_in_order(await explain(full, statement, sorting=False))


async def test_predictions_with_an_id_scans_one_row_of_an_index(
    full: FastAPI, reader: AsyncClient, statements: list[Statement]
) -> None:
    [row] = (await reader.get("/predictions", params={"limit": 1})).json()["items"]
    statements.clear()
    assert (await reader.get(f"/predictions/{row['id']}")).status_code == 200
    [statement] = [one for one in statements if "iris_predictions" in one.sql]
    assert_by_index(await explain(full, statement), most=1)


async def test_routes_for_reading_issue_no_count_and_no_select_star(
    reader: AsyncClient, statements: list[Statement]
) -> None:
    [row] = (await reader.get("/predictions", params={"limit": 1})).json()["items"]
    by_id = f"/predictions/{row['id']}"
    for path in ("/predictions", "/predictions?skip=9", by_id, "/model", "/livez"):
        assert (await reader.get(path)).status_code == 200
    for path in ("/readyz", "/metrics", "/docs", "/openapi.json"):
        assert (await reader.get(path)).status_code == 200
    assert any("iris_predictions" in one.sql for one in statements)
    for one in statements:
        assert "count(" not in one.sql.lower()
        assert "select *" not in one.sql.lower()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM iris_predictions ORDER BY petal_width LIMIT 5",
        "SELECT id FROM iris_predictions WHERE sepal_width > 9 ORDER BY created_at DESC LIMIT 5",
        "SELECT count(*) FROM iris_predictions",
    ],
)
async def test_assert_by_index_with_a_query_without_an_index_fails(full: FastAPI, sql: str) -> None:
    nodes = await explain(full, Statement(sql, ()), sorting=False)
    with pytest.raises(AssertionError):
        assert_by_index(nodes, most=150)


async def test_assert_in_order_with_an_order_without_an_index_fails(full: FastAPI) -> None:
    sql = "SELECT id FROM iris_predictions ORDER BY petal_width LIMIT 5"
    with pytest.raises(AssertionError):
        assert_in_order(await explain(full, Statement(sql, ()), sorting=False))
