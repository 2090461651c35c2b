import json
import sys
from math import nextafter
from random import Random

import pytest
from httpx2 import AsyncClient
from tests.support.flowers import JSON, SETOSA, flower

from iris_api.settings import Settings


async def test_predict_with_a_body_of_max_body_bytes_is_200(
    client: AsyncClient, settings: Settings
) -> None:
    content = flower().encode().ljust(settings.max_body_bytes)
    response = await client.post("/predict", content=content, headers={"Content-Type": JSON})
    assert response.status_code == 200


@pytest.mark.parametrize("token", ["5", "100", "1e1", "5.0", "5e-324"])
async def test_predict_with_any_json_form_of_a_number_is_200(
    client: AsyncClient, token: str
) -> None:
    content = flower(sepal_length=token)
    response = await client.post("/predict", content=content, headers={"Content-Type": JSON})
    assert response.status_code == 200


NASTY = [
    5e-324,
    sys.float_info.min,
    sys.float_info.epsilon,
    0.1 + 0.2,
    1 / 3,
    2.675,
    nextafter(1.0, 0),
    nextafter(100.0, 0),
    100.0,
]


async def test_predict_batch_and_predictions_return_every_float_as_sent(
    client: AsyncClient,
) -> None:
    random = Random(0)
    values = [*NASTY, *(random.uniform(0, 10 ** random.uniform(-30, 2)) for _ in range(391))]
    items = [dict(zip(SETOSA, values[i : i + 4], strict=True)) for i in range(0, len(values), 4)]
    answers = (await client.post("/predict/batch", json={"items": items})).json()["items"]
    newest_first = (await client.get("/predictions", params={"limit": 1000})).json()["items"]
    stored = sorted(newest_first, key=lambda row: row["id"])
    expected = [
        {**answer, **item, "reference": None} for answer, item in zip(answers, items, strict=True)
    ]
    assert json.dumps(stored, sort_keys=True) == json.dumps(expected, sort_keys=True)


@pytest.mark.parametrize("value", NASTY)
async def test_predict_and_its_content_location_return_the_same_prediction(
    client: AsyncClient, value: float
) -> None:
    features = {**SETOSA, "petal_length": value}
    response = await client.post("/predict", json=features)
    assert response.status_code == 200
    stored = (await client.get(response.headers["Content-Location"])).json()
    assert stored == {**response.json(), **features, "reference": None}
    assert list(stored["probabilities"]) == list(response.json()["probabilities"])
