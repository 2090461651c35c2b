"""The database package on its own, in an application that is not this project's."""

import asyncio
import importlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from fastapi import Depends, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import way_to
from tests.integration.witness import Sighting, Witness
from tests.support.flowers import SETOSA

import iris_api.database
from iris_api.database import (
    IrisFeatures,
    IrisPrediction,
    PredictionInDB,
    PredictionResponse,
    create_prediction,
    get_db,
    get_prediction,
    list_predictions,
)
from iris_api.iris import ClassPrediction

FLOWER = IrisFeatures.model_validate(SETOSA)
ANSWER = ClassPrediction(1, "versicolor", {"setosa": 0.25, "versicolor": 0.75}, "mine-1")


@pytest.fixture
async def app(database: URL, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    """Five lines of a customer's, with no lifespan."""
    for name, value in way_to(database).items():
        monkeypatch.setenv(f"IRIS_{name.upper()}", str(value))
    app = FastAPI()

    @app.post("/guess", response_model=PredictionResponse)
    async def guess(
        features: IrisFeatures,
        answer: int | None = None,
        db: AsyncSession = Depends(get_db),  # noqa: B008, as the customer writes it
    ) -> IrisPrediction:
        row = IrisPrediction.from_request(features, ANSWER if answer is None else answer)
        return await create_prediction(db, row)

    @app.get("/guesses", response_model=list[PredictionInDB])
    async def guesses(
        db: AsyncSession = Depends(get_db),  # noqa: B008, as above
    ) -> list[IrisPrediction]:
        page = await list_predictions(db)
        return [row for row in page.items if await get_prediction(db, row.id) is row]

    yield app
    await app.state.session_factory.kw["bind"].dispose()


async def test_create_prediction_in_another_application_commits_before_the_response(
    app: FastAPI, connection: asyncpg.Connection
) -> None:
    witness = Witness(app, connection)
    async with AsyncClient(transport=ASGITransport(app=witness), base_url="http://mine") as client:
        response = await client.post("/guess", json=SETOSA)
    assert response.status_code == 200
    assert witness.sightings == [Sighting(open_writes=0, rows=1)]
    answer = PredictionResponse.model_validate(response.json())
    row = await connection.fetchrow(
        "SELECT iris_predictions.*, version FROM iris_predictions"
        " JOIN models ON models.id = model_id"
    )
    assert row is not None
    assert (row["id"], row["created_at"]) == (answer.id, answer.created_at)
    assert (row["prediction"], row["prediction_label"]) == (1, "versicolor")
    assert (row["version"], answer.probabilities) == ("mine-1", ANSWER.probabilities)


async def test_create_prediction_with_classes_in_another_order_keeps_each_label_its_probability(
    session: AsyncSession,
) -> None:
    by_class = [
        {"setosa": 0.25, "versicolor": 0.75},
        {"versicolor": 0.5, "setosa": 0.5},
        {"virginica": 1.0},
        {"setosa": 0.125, "versicolor": 0.5, "virginica": 0.375},
    ]
    for probabilities in by_class:
        label = max(probabilities, key=probabilities.__getitem__)
        answer = ClassPrediction(0, label, probabilities, "mine-1")
        await create_prediction(session, IrisPrediction.from_request(FLOWER, answer))
    session.expire_all()
    stored = (await list_predictions(session)).items[::-1]
    assert [row.probabilities for row in stored] == by_class


@pytest.mark.parametrize(
    ("answer", "label"), list(enumerate(["setosa", "versicolor", "virginica"]))
)
async def test_from_request_with_a_bare_class_is_stored_with_its_label(
    app: FastAPI, answer: int, label: str
) -> None:
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://mine") as client:
        await client.post("/guess", json=SETOSA, params={"answer": answer})
        [row] = (await client.get("/guesses")).json()
    assert (row["prediction"], row["prediction_label"]) == (answer, label)
    assert (row["probabilities"], row["model_version"]) == (None, None)
    assert {name: row[name] for name in SETOSA} == SETOSA


async def test_get_db_creates_one_session_factory_for_all_requests(app: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://mine") as client:
        await client.post("/guess", json=SETOSA)
        factory = app.state.session_factory
        await asyncio.gather(*(client.post("/guess", json=SETOSA) for _ in range(20)))
        assert app.state.session_factory is factory
        assert len((await client.get("/guesses")).json()) == 21


@pytest.mark.parametrize("answer", [3, -1])
def test_from_request_with_an_unknown_class_raises_index_error(answer: int) -> None:
    with pytest.raises(IndexError):
        IrisPrediction.from_request(FLOWER, answer)


@pytest.mark.parametrize("name", iris_api.database.__all__)
def test_database_package_exports_every_name_of_its_all(name: str) -> None:
    assert getattr(importlib.import_module("iris_api.database"), name) is not None
