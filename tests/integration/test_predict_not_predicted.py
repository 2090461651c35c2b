"""Rows for which the ML model gives no probabilities: a model of an older release may do so."""

import asyncio
from typing import Any

import asyncpg
import numpy as np
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.support.application import assert_problem, count_rows
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.inference import Classifier, InferenceEngine
from iris_api.resources import ModelHolder, Resources, ServedModel

FAR = dict.fromkeys(SETOSA, 100.0)


class Blind:
    """Gives NaN far from its data, as `sklearn.semi_supervised.LabelSpreading` does."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def predict_proba(self, rows: Any) -> Any:
        probabilities = self.estimator.predict_proba(rows)
        probabilities[rows.max(axis=1) > 50] = np.nan
        return probabilities


@pytest.fixture(autouse=True)
def blind(app: FastAPI) -> None:
    """Have the application serve such an ML model."""
    resources: Resources = app.state.resources
    served = resources.model.get()
    classifier = served.engine.classifier
    estimator = Blind(classifier.estimator)
    engine = InferenceEngine(
        Classifier(estimator, classes=classifier.classes, version="blind-1"),
        threads=1,
        max_batch=256,
        max_waiting=1024,
        max_wait_seconds=60,
        metrics=resources.metrics,
    )
    resources.model = ModelHolder(ServedModel(served.manifest, engine), resources.metrics)


def assert_not_predicted(response: Response, rows: str) -> None:
    detail = assert_problem(response, 500, "not-predicted")["detail"]
    assert f"The model blind-1 gives no probabilities for {rows}" in detail
    assert "Nothing was stored" in detail


async def test_predict_of_a_row_without_probabilities_is_500_not_predicted_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    headers = {"Idempotency-Key": "far"}
    assert_not_predicted(await client.post("/predict", json=FAR), "these features")
    assert_not_predicted(await client.post("/predict", json=FAR, headers=headers), "these features")
    assert await count_rows(connection) == 0
    assert (await client.post("/predict", json=SETOSA, headers=headers)).status_code == 200


async def test_predict_beside_rows_without_probabilities_is_200(client: AsyncClient) -> None:
    flowers = [SETOSA, FAR, VIRGINICA] * 10
    responses = await asyncio.gather(*[client.post("/predict", json=one) for one in flowers])
    for flower, response in zip(flowers, responses, strict=True):
        if flower is FAR:
            assert_not_predicted(response, "these features")
        else:
            assert response.status_code == 200
            expected = "setosa" if flower is SETOSA else "virginica"
            assert response.json()["prediction_label"] == expected


async def test_predict_batch_with_rows_without_probabilities_names_them_and_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    items = [SETOSA, FAR, VIRGINICA, FAR]
    response = await client.post("/predict/batch", json={"items": items})
    assert_not_predicted(response, "items[1], items[3]")
    assert await count_rows(connection) == 0
