"""Another ML model takes the place of the one that answers, while requests run."""

import asyncio

from fastapi import FastAPI
from httpx2 import AsyncClient
from tests.support.flowers import SETOSA

from iris_api.errors import ModelUnavailable
from iris_api.inference import Classifier, InferenceEngine
from iris_api.resources import ModelHolder, Resources, ServedModel

ROUNDS, CALLERS = 20, 8


def another(resources: Resources, version: str) -> ServedModel:
    """The served model again, under another version."""
    served = resources.model.get()
    classifier = served.engine.classifier
    engine = InferenceEngine(
        Classifier(classifier.estimator, classes=classifier.classes, version=version),
        threads=1,
        max_batch=256,
        max_waiting=1024,
        max_wait_seconds=60,
        metrics=resources.metrics,
    )
    return ServedModel(served.manifest, engine)


async def test_model_holder_swap_during_requests_fails_none_and_serves_the_new_model(
    app: FastAPI, client: AsyncClient
) -> None:
    resources: Resources = app.state.resources
    asked, versions = 0, set()

    async def ask() -> None:
        nonlocal asked
        for turn in range(ROUNDS):
            path: str = "/predict"
            body: object = SETOSA
            if turn % 2:
                path, body = "/predict/batch", {"items": [SETOSA] * 3}
            response = await client.post(path, json=body)
            assert response.status_code == 200, response.text
            [first, *_] = response.json().get("items", [response.json()])
            versions.add(first["model_version"])
            asked += 1

    async def swap() -> None:
        for number in range(5):
            while asked < (number + 1) * ROUNDS:
                await asyncio.sleep(0)
            await resources.model.swap(another(resources, f"model-{number}"))

    await asyncio.gather(swap(), *[ask() for _ in range(CALLERS)])
    answer = (await client.post("/predict", json=SETOSA)).json()
    assert answer["model_version"] == "model-4"
    assert len(versions) > 1


async def test_model_holder_swap_without_a_model_before_makes_predict_200(
    app: FastAPI, client: AsyncClient
) -> None:
    resources: Resources = app.state.resources
    served = another(resources, "first-1")
    resources.model = ModelHolder(ModelUnavailable("None is here."), resources.metrics)
    assert (await client.post("/predict", json=SETOSA)).status_code == 503
    await resources.model.swap(served)
    assert (await client.post("/predict", json=SETOSA)).json()["model_version"] == "first-1"
