"""The walls between clients: rows, ids, pages, counts and keys of one are not another's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from tests.support.application import assert_problem, client_of, make_key, metric
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database.prediction_id import time_of
from iris_api.settings import Settings


class Party:
    """A client with a key, and what it has predicted."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.answers: list[dict[str, Any]] = []

    async def predict(self, flower: dict[str, float], key: str | None = None) -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        response = await self.client.post("/predict", json=flower, headers=headers)
        if response.status_code == 200:
            self.answers.append(response.json())
        return response

    async def page(self, **query: object) -> dict[str, Any]:
        params = {name: str(value) for name, value in query.items()}
        response = await self.client.get("/predictions", params=params)
        assert response.status_code == 200
        body: dict[str, Any] = response.json()
        assert ("Link" in response.headers) == (body["next_cursor"] is not None)
        return body


@pytest.fixture
async def parties(guarded: FastAPI, keyed: Settings) -> AsyncIterator[tuple[Party, Party]]:
    """Client A, who has predicted, and client B, who has not yet."""
    async with (
        client_of(guarded, **await make_key(keyed, "a")) as of_a,
        client_of(guarded, **await make_key(keyed, "b")) as of_b,
    ):
        a, b = Party(of_a), Party(of_b)
        for number in range(5):
            assert (await a.predict(SETOSA, f"key-{number}")).status_code == 200
        yield a, b


async def test_predictions_with_an_id_of_another_client_is_404(
    parties: tuple[Party, Party],
) -> None:
    a, b = parties
    missing = await b.client.get(f"/predictions/{uuid4()}")
    for answer in a.answers:
        path = f"/predictions/{answer['id']}"
        assert (await a.client.get(path)).status_code == 200
        theirs = await b.client.get(path)
        assert_problem(theirs, 404, "prediction-not-found")
        differing = {"instance", "request_id"}
        assert {k: v for k, v in theirs.json().items() if k not in differing} == {
            k: v for k, v in missing.json().items() if k not in differing
        }


async def test_predictions_of_another_client_are_in_no_page_count_or_cursor(
    parties: tuple[Party, Party],
) -> None:
    a, b = parties
    empty: dict[str, Any] = {"items": [], "next_cursor": None}
    answer = a.answers[0]
    cursor = (await a.page(limit=2))["next_cursor"]
    filters: list[dict[str, object]] = [
        {},
        {"limit": 1},
        {"limit": 1, "skip": 3},
        {"cursor": cursor},
        {"label": answer["prediction_label"]},
        {"model_version": answer["model_version"]},
        {"since": answer["created_at"]},
        {"until": "2100-01-01T00:00:00Z"},
        {"label": "setosa", "model_version": answer["model_version"], "limit": 1},
    ]
    for query in filters:
        assert await b.page(**query) == empty, query
    await b.predict(VIRGINICA)
    for _ in range(3):
        await a.predict(VIRGINICA)
    for query in filters:
        page = await b.page(**query)
        assert page["next_cursor"] is None, query
        assert [item["id"] for item in page["items"]] in ([], [b.answers[0]["id"]]), query
    assert [item["id"] for item in (await b.page(limit=1))["items"]] == [b.answers[0]["id"]]


async def test_predictions_pages_of_a_client_hold_only_its_own_rows(
    parties: tuple[Party, Party],
) -> None:
    for _ in range(4):
        for party in parties:
            await party.predict(VIRGINICA)
    for party in parties:
        seen, cursor = [], None
        while True:
            page = await party.page(limit=2, **({"cursor": cursor} if cursor else {}))
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == sorted((answer["id"] for answer in party.answers), reverse=True)


@pytest.mark.parametrize("body", [SETOSA, VIRGINICA])
async def test_predict_with_an_idempotency_key_of_another_client_is_200_with_a_new_row(
    parties: tuple[Party, Party], body: dict[str, float]
) -> None:
    a, b = parties
    for number in range(5):
        response = await b.predict(body, f"key-{number}")
        assert response.status_code == 200
        assert response.json()["id"] not in [answer["id"] for answer in a.answers]
    batch = await b.client.post(
        "/predict/batch", json={"items": [body]}, headers={"Idempotency-Key": "batch"}
    )
    assert batch.status_code == 200
    again = await a.client.post(
        "/predict/batch", json={"items": [SETOSA] * 2}, headers={"Idempotency-Key": "batch"}
    )
    assert again.status_code == 200


async def test_predict_ids_tell_a_client_nothing_of_the_number_of_predictions(
    parties: tuple[Party, Party],
) -> None:
    """They are the time and 62 random bits, from which only the ids of one batch count up."""
    a, b = parties
    began = datetime.now(UTC)
    await asyncio.gather(*(party.predict(VIRGINICA) for party in parties * 20))
    for party in parties:
        batch = await party.client.post("/predict/batch", json={"items": [SETOSA] * 100})
        party.answers += batch.json()["items"][:1]
    ids = [UUID(answer["id"]) for party in (a, b) for answer in party.answers]
    assert {(one.version, one.variant) for one in ids} == {(7, RFC_4122)}
    random_bits = [one.int & (2**62 - 1) for one in ids]
    assert len(set(random_bits)) == len(ids)
    assert len({bits >> 48 for bits in random_bits}) > len(ids) // 2, "no counter is in front"
    assert len({bits & (2**14 - 1) for bits in random_bits}) > len(ids) // 2, "nor at the end"
    for party in parties:
        for answer in party.answers:
            assert time_of(UUID(answer["id"])) == datetime.fromisoformat(answer["created_at"])
    assert began < time_of(UUID(b.answers[-1]["id"])) <= datetime.now(UTC)


async def test_predict_in_a_group_of_several_clients_stores_each_row_for_its_client(
    parties: tuple[Party, Party], connection: asyncpg.Connection
) -> None:
    await asyncio.gather(
        *(party.predict(VIRGINICA, key) for party in parties for key in ("x", "y", None) * 10)
    )
    for name, party in zip("ab", parties, strict=True):
        rows = await connection.fetch(
            "SELECT id FROM iris_predictions WHERE client_id ="
            " (SELECT id FROM clients WHERE name = $1)",
            name,
        )
        assert {str(row["id"]) for row in rows} == {answer["id"] for answer in party.answers}


async def test_metrics_without_the_admin_scope_is_403(
    guarded: FastAPI, keyed: Settings, parties: tuple[Party, Party]
) -> None:
    for party in parties:
        assert_problem(await party.client.get("/metrics"), 403, "forbidden")
    admin = await make_key(keyed, "admin", scopes=("admin",))
    async with client_of(guarded) as client:
        assert await metric(client, "iris_predictions_total", admin) == 5
