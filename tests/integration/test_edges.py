import json
import sys
from math import nextafter
from random import Random

import pytest
from httpx2 import AsyncClient
from tests.integration.test_bad_bodies import JSON, flower
from tests.support.flowers import SETOSA

from iris_api.settings import Settings


async def test_a_body_as_large_as_the_limit_is_taken(
    client: AsyncClient, settings: Settings
) -> None:
    content = flower().encode().ljust(settings.max_body_bytes)
    response = await client.post("/predict", content=content, headers={"Content-Type": JSON})
    assert response.status_code == 200


@pytest.mark.parametrize("token", ["5", "100", "1e1", "5.0", "5e-324"])
async def test_a_number_in_any_form_of_json_is_taken(client: AsyncClient, token: str) -> None:
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


async def test_every_float_comes_back_as_it_was_sent(client: AsyncClient) -> None:
    random = Random(0)
    values = [*NASTY, *(random.uniform(0, 10 ** random.uniform(-30, 2)) for _ in range(391))]
    items = [dict(zip(SETOSA, values[i : i + 4], strict=True)) for i in range(0, len(values), 4)]
    answers = (await client.post("/predict/batch", json={"items": items})).json()["items"]
    newest_first = (await client.get("/predictions", params={"limit": 1000})).json()["items"]
    stored = sorted(newest_first, key=lambda row: row["id"])
    expected = [{**answer, **item} for answer, item in zip(answers, items, strict=True)]
    assert json.dumps(stored, sort_keys=True) == json.dumps(expected, sort_keys=True)


@pytest.mark.parametrize("value", NASTY)
async def test_a_prediction_is_read_back_as_it_was_answered(
    client: AsyncClient, value: float
) -> None:
    features = {**SETOSA, "petal_length": value}
    response = await client.post("/predict", json=features)
    assert response.status_code == 200
    stored = (await client.get(response.headers["Content-Location"])).json()
    assert stored == {**response.json(), **features}
    assert list(stored["probabilities"]) == list(response.json()["probabilities"])
