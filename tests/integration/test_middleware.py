import asyncio
import re
from uuid import uuid4

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from tests.integration.trouble import until_blocked, writes_held_up
from tests.support.application import Held, assert_problem, metrics, running, sample_key
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.settings import Settings


async def test_metrics_count_requests_predictions_and_connections(
    client: AsyncClient, settings: Settings
) -> None:
    answers = [(await client.post("/predict", json=SETOSA)).json() for _ in range(3)]
    await client.post("/predict/batch", json={"items": [SETOSA, VIRGINICA, VIRGINICA]})
    await client.post("/predict", json={})
    await client.get("/predictions")
    await client.get(f"/predictions/{answers[0]['id']}")
    await client.get("/predictions/999")
    await client.get("/nowhere/1")
    await client.get("/nowhere/2")
    values = await metrics(client)

    def requests(method: str, route: str, status: str) -> float:
        return values[sample_key("http_requests_total", method=method, route=route, status=status)]

    assert requests("POST", "/predict", "200") == 3
    assert requests("POST", "/predict", "422") == 1
    assert requests("POST", "/predict/batch", "200") == 1
    assert requests("GET", "/predictions", "200") == 1
    assert requests("GET", "/predictions/{prediction_id}", "200") == 1
    assert requests("GET", "/predictions/{prediction_id}", "404") == 1
    assert requests("GET", "unmatched", "404") == 2
    latency = sample_key("http_request_duration_seconds_count", method="POST", route="/predict")
    assert values[latency] == 4
    assert values[sample_key("inference_duration_seconds_count")] >= 2
    version = answers[0]["model_version"]
    for label, count in [("setosa", 4), ("virginica", 2)]:
        assert values[sample_key("predictions_total", label=label, model_version=version)] == count
    assert values[sample_key("database_connections_in_use")] == 0
    assert values[sample_key("database_connections_limit")] == settings.database_pool_size


async def test_metrics_count_the_pages_of_the_documentation_by_their_routes(
    client: AsyncClient,
) -> None:
    for path in ("/", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/no"):
        await client.get(path)
    await client.post("/openapi.json")
    counted = {
        (labels["route"], labels["status"])
        for name, pairs in await metrics(client)
        if name == "iris_http_requests_total"
        for labels in [dict(pairs)]
    }
    assert counted == {
        ("/", "307"),
        ("/docs", "200"),
        ("/openapi.json", "200"),
        ("/openapi.json", "405"),
        ("/docs/assets", "200"),
        ("/docs/assets", "404"),
    }


async def test_metrics_have_the_model_the_commits_and_the_waits_for_a_connection(
    client: AsyncClient,
) -> None:
    card = (await client.get("/model")).json()
    await client.post("/predict", json=SETOSA)  # this one names the model
    before = await metrics(client)
    await client.post("/predict", json=SETOSA)
    await client.post("/predict/batch", json={"items": [SETOSA, VIRGINICA]})
    values = await metrics(client)

    def more(name: str, **labels: str) -> float:
        key = sample_key(name, **labels)
        return values[key] - before.get(key, 0)

    assert values[sample_key("model_info", version=card["version"], sha256=card["sha256"])] == 1
    for kind in ("group", "batch"):
        assert more("commit_duration_seconds_count", kind=kind) == 1
        assert more("commit_duration_seconds_sum", kind=kind) > 0
    assert more("database_pool_wait_seconds_count") == 2


async def test_metrics_count_refusals_by_their_problem(client: AsyncClient) -> None:
    await client.post("/predict", json={})
    await client.post("/predict/batch", json={"items": [{}]})
    await client.get("/predictions/999")
    await client.get("/nowhere")
    values = await metrics(client)
    found = {
        dict(labels)["problem"]: value
        for (name, labels), value in values.items()
        if name == "iris_http_problems_total"
    }
    assert found == {"invalid-request": 2, "prediction-not-found": 1, "not-found": 1}


async def test_metrics_during_an_inference_count_requests_in_flight_and_waiting_rows(
    client: AsyncClient, held: Held
) -> None:
    first = asyncio.create_task(client.post("/predict", json=SETOSA))
    await held.wait_until_entered()
    others = [asyncio.create_task(client.post("/predict", json=SETOSA)) for _ in range(3)]
    waiting = sample_key("waiting_rows", queue="inference")
    async with asyncio.timeout(10):
        while (values := await metrics(client))[waiting] != 3:
            pass
    assert values[sample_key("http_requests_in_flight")] == 4
    held.released.set()
    await asyncio.gather(first, *others)
    values = await metrics(client)
    assert (values[waiting], values[sample_key("http_requests_in_flight")]) == (0, 0)


async def test_metrics_during_a_commit_count_waiting_rows_and_connections_in_use(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    waiting = sample_key("waiting_rows", queue="commit")
    one = settings.model_copy(update={"database_groups_in_flight": 1})
    async with running(one) as client:
        async with writes_held_up(connection):
            first = asyncio.create_task(client.post("/predict", json=SETOSA))
            await until_blocked(connection)
            others = [asyncio.create_task(client.post("/predict", json=SETOSA)) for _ in range(3)]
            async with asyncio.timeout(10):
                while (values := await metrics(client))[waiting] != 3:
                    pass
            assert values[sample_key("database_connections_in_use")] == 1
        await asyncio.gather(first, *others)
        assert (await metrics(client))[waiting] == 0


async def test_metrics_ready_is_the_last_answer_of_readyz(
    client: AsyncClient, app: FastAPI
) -> None:
    async def ready() -> tuple[float, float]:
        values = await metrics(client)
        return values[sample_key("ready")], values[sample_key("ready_timestamp_seconds")]

    assert await ready() == (0, 0)
    assert (await client.get("/readyz")).status_code == 200
    is_ready, at = await ready()
    assert is_ready == 1
    app.state.resources.is_stopping = True
    assert (await client.get("/readyz")).status_code == 503
    is_ready, later = await ready()
    assert is_ready == 0
    assert later >= at > 1_700_000_000


async def test_metrics_with_unknown_methods_and_paths_have_bounded_labels(
    client: AsyncClient,
) -> None:
    for number in range(20):
        await client.request(f"INVENT{number}", f"/nowhere/{number}?{number}")
    named = {labels for name, labels in await metrics(client) if name == "iris_http_requests_total"}
    assert {dict(labels)["method"] for labels in named} == {"other"}
    assert {dict(labels)["route"] for labels in named} == {"unmatched"}


async def test_metrics_after_a_failed_predict_count_no_prediction(settings: Settings) -> None:
    other = settings.model_copy(update={"database_connect_timeout": 0.000_001})
    async with running(other) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 503
        names = {name for name, _ in await metrics(client)}
    assert "iris_predictions_total" not in names


async def test_metrics_of_two_applications_are_separate(settings: Settings) -> None:
    async with running(settings) as one, running(settings) as other:
        await one.post("/predict", json=SETOSA)
        done = sample_key("http_requests_total", method="POST", route="/predict", status="200")
        assert (await metrics(one))[done] == 1
        assert done not in await metrics(other)


@pytest.mark.parametrize("given", ["a", "6f0c8a4e-2b1d:4c7f_9a3e.5d", "x" * 128])
async def test_request_id_with_a_valid_header_is_kept(client: AsyncClient, given: str) -> None:
    response = await client.get("/livez", headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] == given
    problem = await client.get("/predictions/999", headers={"X-Request-ID": given})
    assert assert_problem(problem, 404, "prediction-not-found")["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", 'a"b', "<script>", "x" * 129, "é", "a\tb"])
async def test_request_id_with_an_invalid_header_is_replaced(
    client: AsyncClient, given: str
) -> None:
    response = await client.get("/livez", headers={b"X-Request-ID": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


async def test_request_id_without_a_header_is_unique(client: AsyncClient) -> None:
    ids = {(await client.get("/livez")).headers["X-Request-ID"] for _ in range(20)}
    assert len(ids) == 20


async def test_predictions_with_an_unexpected_exception_is_500_and_the_next_request_succeeds(
    client: AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/predictions/{uuid4()}"

    async def fail(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("the secret of the house")

    with monkeypatch.context() as patched:
        patched.setattr("iris_api.database.crud.get_prediction", fail)
        response = await client.get(path)
    assert_problem(response, 500, "internal-error")
    for word in ("secret", "RuntimeError", "Traceback", ".py"):
        assert word not in response.text
    assert_problem(await client.get(path), 404, "prediction-not-found")
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    failed = sample_key(
        "http_requests_total", method="GET", route="/predictions/{prediction_id}", status="500"
    )
    assert (await metrics(client))[failed] == 1


async def test_predict_with_a_failing_model_is_500_and_the_next_request_is_200(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise ValueError("Input X contains 5.1")

    with monkeypatch.context() as patched:
        patched.setattr("iris_api.inference.Classifier.predict", fail)
        response = await client.post("/predict", json=SETOSA)
    assert_problem(response, 500, "internal-error")
    assert "5.1" not in response.text
    assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert len((await client.get("/predictions")).json()["items"]) == 1
