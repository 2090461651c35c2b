import asyncpg
import joblib
import pytest
from httpx2 import AsyncClient
from sklearn.datasets import load_iris
from tests.support.application import running
from tests.support.flowers import SETOSA

from iris_api.iris import FEATURE_NAMES
from iris_api.settings import Settings


async def test_predict_returns_and_stores_the_prediction(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    response = await client.post("/predict", json=SETOSA)
    assert response.status_code == 200
    answer = response.json()
    assert answer["prediction_label"] == "setosa"
    assert response.headers["Content-Location"] == f"/predictions/{answer['id']}"
    row = await connection.fetchrow("SELECT * FROM iris_predictions")
    assert row is not None
    assert {name: row[name] for name in SETOSA} == SETOSA
    assert row["prediction"] == answer["prediction"] == 0
    model = await connection.fetchrow("SELECT * FROM models WHERE id = $1", row["model_id"])
    assert model is not None
    assert model["version"] == answer["model_version"]
    assert (
        dict(zip(model["labels"], row["class_probabilities"], strict=True))
        == (answer["probabilities"])
    )


@pytest.mark.parametrize("asked", ["/predict", "/iris/predict"])
async def test_predict_and_predictions_with_a_root_path_have_links_below_it(
    settings: Settings, asked: str
) -> None:
    """Whether it takes its own path away or not."""
    async with running(settings.model_copy(update={"root_path": "/iris"})) as client:
        for _ in range(2):
            response = await client.post(asked, json=SETOSA)
        location = response.headers["Content-Location"]
        assert location == f"/iris/predictions/{response.json()['id']}"
        assert (await client.get(location)).json() == {
            **response.json(),
            **SETOSA,
            "reference": None,
        }
        page = await client.get("/iris/predictions", params={"limit": 1})
        assert page.headers["Link"].startswith("</iris/predictions?")


async def test_predict_of_the_iris_data_equals_scikit_learn(
    client: AsyncClient, settings: Settings
) -> None:
    data = load_iris()
    [file] = settings.model_dir.glob("*.joblib")
    estimator = joblib.load(file)
    labels = data.target_names[estimator.predict(data.data)]
    probabilities = estimator.predict_proba(data.data)
    for row, label, expected in zip(data.data, labels, probabilities, strict=True):
        features = dict(zip(FEATURE_NAMES, row.tolist(), strict=True))
        answer = (await client.post("/predict", json=features)).json()
        assert answer["prediction_label"] == label
        assert list(answer["probabilities"]) == data.target_names.tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-9)
