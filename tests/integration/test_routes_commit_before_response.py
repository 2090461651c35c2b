"""No answer leaves before its commit: every route is watched at the moment its answer begins."""

from collections.abc import AsyncIterator
from typing import Annotated

import asyncpg
import pytest
from fastapi import Depends, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.integration.routes import A_PREDICTION, EXAMPLES, routes_of
from tests.integration.witness import Sighting, Witness
from tests.support.application import document
from tests.support.flowers import SETOSA

from iris_api.database import IrisFeatures, IrisPrediction, create_engine, create_session_factory
from iris_api.settings import Settings


@pytest.fixture
async def witness(app: FastAPI, connection: asyncpg.Connection) -> Witness:
    return Witness(app, connection)


@pytest.fixture
async def watched(witness: Witness) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app=witness, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def test_routes_all_have_an_example_request(app: FastAPI) -> None:
    documented = {
        f"{method.upper()} {path}"
        for path, operations in document()["paths"].items()
        for method in operations
    }
    assert documented <= routes_of(app)
    assert routes_of(app) == set(EXAMPLES), "give a new route its example request"


async def test_routes_commit_before_the_response_starts(
    watched: AsyncClient, witness: Witness
) -> None:
    rows, stored = 0, A_PREDICTION
    for route, example in EXAMPLES.items():
        method = route.split()[0].replace("MOUNT", "GET")
        url = example.url.replace(A_PREDICTION, stored)
        response = await watched.request(method, url, json=example.body)
        assert response.status_code < 400, route
        if route == "POST /predict":
            stored = response.json()["id"]
        rows += example.writes
        assert witness.sightings.pop() == Sighting(open_writes=0, rows=rows), route
        assert (await witness.snapshot()).rows == rows, f"{route} writes after its answer"
    assert not witness.sightings


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_predict_with_a_refused_row_is_500_and_leaves_no_transaction_open(
    watched: AsyncClient, witness: Witness, path: str
) -> None:
    await witness.connection.execute("ALTER TABLE iris_predictions ADD CHECK (sepal_width <> 9)")
    flower = {**SETOSA, "sepal_width": 9}
    body = flower if path == "/predict" else {"items": [SETOSA, flower]}
    assert (await watched.post(path, json=body)).status_code == 500
    assert witness.sightings == [Sighting(open_writes=0, rows=0)]


@pytest.mark.parametrize("flushes", [True, False])
async def test_witness_detects_a_commit_after_the_response(
    settings: Settings, connection: asyncpg.Connection, *, flushes: bool
) -> None:
    """FastAPI's default: the code behind a dependency's ``yield`` runs when the answer is out."""
    engine = create_engine(settings)
    sessions = create_session_factory(engine)
    app = FastAPI()

    async def late() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            yield session
            await session.commit()

    @app.post("/late")
    async def predict(features: IrisFeatures, db: Annotated[AsyncSession, Depends(late)]) -> str:
        await db.execute(text("SELECT 1"))
        db.add(IrisPrediction.from_request(features, 0))
        if flushes:
            await db.flush()
        return "promised"

    witness = Witness(app, connection)
    async with AsyncClient(
        transport=ASGITransport(app=witness), base_url="http://localhost"
    ) as client:
        assert (await client.post("/late", json=SETOSA)).status_code == 200
    assert witness.sightings == [Sighting(open_writes=int(flushes), rows=0)]
    assert (await witness.snapshot()).rows == 1
    await engine.dispose()
