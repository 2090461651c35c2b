"""The caller's own name for a sample: stored, listed, found by it, and part of the payload."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from tests.integration.repeats import FLOWERS, ask, assert_same, in_one_group
from tests.support.application import (
    assert_problem,
    client_of,
    count_rows,
    make_key,
    running,
    started,
)
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database.schema import MAX_BATCH_ITEMS, MAX_REFERENCE
from iris_api.settings import Settings

VALID = ["a", "sample 42", "Zoë, ward 3", '"quoted", {[\\', "東京 №7", "🌸" * MAX_REFERENCE]


async def listed(client: AsyncClient, **query: str) -> list[Any]:
    """The samples' ids and references, newest first."""
    response = await client.get("/predictions", params=query)
    assert response.status_code == 200, response.text
    return [(item["id"], item["reference"]) for item in response.json()["items"]]


@pytest.mark.parametrize("reference", VALID)
async def test_predict_with_a_reference_stores_it_and_the_history_finds_it(
    client: AsyncClient, connection: asyncpg.Connection, reference: str
) -> None:
    await ask(client, None)
    response = await ask(client, None, reference=reference)
    assert response.status_code == 200
    prediction_id = response.json()["id"]
    stored = await client.get(response.headers["Content-Location"])
    assert stored.json() == {**response.json(), **SETOSA, "reference": reference}
    assert await listed(client, reference=reference) == [(prediction_id, reference)]
    assert await connection.fetchval("SELECT max(reference) FROM iris_predictions") == reference


async def test_predict_batch_stores_the_reference_of_each_item(client: AsyncClient) -> None:
    references = [*VALID, None, VALID[0]]
    items = [SETOSA | {"reference": reference} for reference in references]
    response = await client.post("/predict/batch", json={"items": [*items, VIRGINICA]})
    assert response.status_code == 200
    ids = [item["id"] for item in response.json()["items"]]
    in_order = list(zip(ids, [*references, None], strict=True))
    assert await listed(client) == in_order[::-1]
    assert await listed(client, reference=VALID[0]) == [in_order[-2], in_order[0]]


async def test_predict_twice_with_one_reference_stores_both(client: AsyncClient) -> None:
    first, second = [await ask(client, None, reference="mine") for _ in range(2)]
    ids = [response.json()["id"] for response in (second, first)]
    assert await listed(client, reference="mine") == [(one, "mine") for one in ids]


async def test_predictions_with_a_reference_and_other_filters_are_those_of_all(
    client: AsyncClient,
) -> None:
    answers = {
        (reference, label): (await ask(client, None, flower, reference=reference)).json()
        for reference in ("one", "other")
        for label, flower in (("setosa", SETOSA), ("virginica", VIRGINICA))
    }
    wanted = answers["one", "virginica"]
    query = {"reference": "one", "label": "virginica", "since": wanted["created_at"]}
    for more in ({}, {"model_version": wanted["model_version"]}):
        assert await listed(client, **query, **more) == [(wanted["id"], "one")]
    assert await listed(client, reference="one", model_version="nosuch") == []
    assert await listed(client, reference="ONE") == []


async def test_predictions_with_the_reference_of_another_client_are_none(keyed: Settings) -> None:
    async with started(keyed) as app:
        one, other = [client_of(app, **await make_key(keyed, name)) for name in ("one", "other")]
        assert (await ask(one, None, reference="mine")).status_code == 200
        assert len(await listed(one, reference="mine")) == 1
        assert await listed(other, reference="mine") == []


MALFORMED = {
    "empty": [b""],
    "blank": [b" \t "],
    "too long": ["é".encode() * (MAX_REFERENCE + 1)],
    "a control character": [b"secret\x01"],
    "a tab": [b"secret\tsecret"],
    "a line end": ["secret\x85".encode()],
    "Latin-1": ["secr\xe9t".encode("latin-1")],
    "a cut off character": ["secret€".encode()[:-1]],
    "a surrogate": b"secret\xed\xa0\x80".split(),
    "not the shortest form": [b"secret\xc0\xaf"],
    "twice": [b"secret", b"secret"],
}


@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.asyncio(loop_scope="module")
async def test_predict_with_an_invalid_reference_is_422_and_does_not_echo_it(
    shared_client: AsyncClient, shared_connection: asyncpg.Connection, values: list[bytes]
) -> None:
    headers = [(b"Prediction-Reference", value) for value in values]
    response = await shared_client.post("/predict", json=SETOSA, headers=headers)
    assert_problem(response, 422, "invalid-request", field="Prediction-Reference")
    assert "secr" not in response.text
    assert await count_rows(shared_connection) == 0


@pytest.mark.parametrize(
    "token", ['""', rf'"{"é" * (MAX_REFERENCE + 1)}"', r'"secr\u0000"', r'"secr\ud800"', "5", "[]"]
)
@pytest.mark.asyncio(loop_scope="module")
async def test_predict_batch_with_an_invalid_reference_is_422_or_400_and_does_not_echo_it(
    shared_client: AsyncClient, shared_connection: asyncpg.Connection, token: str
) -> None:
    flower = ", ".join(f'"{name}": {value}' for name, value in SETOSA.items())
    body = f'{{"items": [{{{flower}, "reference": {token}}}]}}'
    response = await shared_client.post(
        "/predict/batch", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    if "ud800" in token:
        assert_problem(response, 400, "malformed-body")
    else:
        assert_problem(response, 422, "invalid-request", field="items[0].reference")
    assert "secr" not in response.text
    assert await count_rows(shared_connection) == 0


async def test_predict_batch_of_10_000_items_with_references_full_of_commas_is_200(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    rest = r"\"[,],{,},\\" * 4
    items = [SETOSA | {"reference": f"{number} {rest}"} for number in range(MAX_BATCH_ITEMS)]
    response = await client.post("/predict/batch", json={"items": items})
    assert response.status_code == 200
    stored = await connection.fetch("SELECT reference FROM iris_predictions ORDER BY id")
    assert [row["reference"] for row in stored] == [item["reference"] for item in items]


EITHER = pytest.mark.parametrize("path", ["/predict", "/predict/batch"])


async def ask_named(client: AsyncClient, path: str, reference: str | None) -> Response:
    """Send one sample under one Idempotency-Key."""
    if path == "/predict":
        return await ask(client, "mine", reference=reference)
    item = SETOSA if reference is None else SETOSA | {"reference": reference}
    return await ask(client, "mine", {"items": [item]}, path)


@EITHER
@pytest.mark.parametrize("reference", [None, "one"])
async def test_predict_with_a_reused_idempotency_key_and_another_reference_is_422(
    client: AsyncClient, connection: asyncpg.Connection, path: str, reference: str | None
) -> None:
    first = await ask_named(client, path, reference)
    for other in {None, "one", "other"} - {reference}:
        response = await ask_named(client, path, other)
        assert_problem(response, 422, "idempotency-key-reused")
    assert_same([first, await ask_named(client, path, reference)])
    assert await count_rows(connection) == 1


@EITHER
async def test_predict_at_two_services_with_two_references_under_one_idempotency_key_stores_one(
    settings: Settings, connection: asyncpg.Connection, path: str
) -> None:
    async with running(settings) as one, running(settings) as two:
        asked = [(client, reference) for client in (one, two) for reference in ("a", "b") * 5]
        responses = await asyncio.gather(
            *(ask_named(client, path, reference) for client, reference in asked)
        )
    assert await count_rows(connection) == 1
    stored = await connection.fetchval("SELECT reference FROM iris_predictions")
    assert_one_taken(stored, [reference for _, reference in asked], responses)


def assert_one_taken(stored: str, references: Sequence[str], responses: Sequence[Response]) -> None:
    """Hold the answers to one Idempotency-Key against the reference that was stored under it."""
    pairs = list(zip(references, responses, strict=True))
    assert_same([response for reference, response in pairs if reference == stored])
    for reference, response in pairs:
        if reference != stored:
            assert_problem(response, 422, "idempotency-key-reused")


async def test_predict_in_a_group_stores_each_reference_and_one_under_an_idempotency_key(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    references = ["a", "b", "a", "b"]
    keyed = [ask(client, "mine", FLOWERS[0], reference=reference) for reference in references]
    others = [ask(client, None, FLOWERS[1], reference=reference) for reference in ("a", None)]
    responses = await in_one_group(client, connection, keyed + others)
    under_key = "SELECT reference FROM iris_predictions WHERE sepal_length = $1"
    stored = await connection.fetchval(under_key, FLOWERS[0]["sepal_length"])
    assert_one_taken(stored, references, responses[:4])
    for response, reference in zip(responses[4:], ("a", None), strict=True):
        row = await client.get(response.headers["Content-Location"])
        assert row.json()["reference"] == reference
    transactions = "SELECT count(DISTINCT transaction) FROM iris_predictions"
    assert await connection.fetchval(transactions) == 2  # the other one held the group up
    assert await count_rows(connection) == 4
