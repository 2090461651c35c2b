from dataclasses import dataclass

import asyncpg
import pytest
from httpx2 import AsyncClient
from tests.support.application import assert_problem, count_rows
from tests.support.flowers import SETOSA

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Query:
    """A query of ``GET /predictions`` that does not fit, and the parameter at fault."""

    text: str
    field: str
    unseen: str | None = None


QUERIES = [
    Query("limit=0", "limit"),
    Query("limit=-1", "limit"),
    Query("limit=1001", "limit", "1001"),
    Query("limit=1_0", "limit", "1_0"),
    Query("limit=%2B7", "limit"),
    Query("limit=%207", "limit"),
    Query("limit=7.0", "limit", "7.0"),
    Query("limit=%D9%A7", "limit"),  # a seven, in Arabic digits
    Query("limit=zebra", "limit", "zebra"),
    Query("limit=", "limit"),
    Query("limit=" + "9" * 5000, "limit", "9" * 100),
    Query("skip=-1", "skip"),
    Query("skip=10001", "skip", "10001"),
    Query("skip=1_0", "skip", "1_0"),
    Query("label=", "label"),
    Query("label=%00", "label"),
    Query("label=zebra%00", "label", "zebra"),
    Query("label=" + "z" * 201, "label", "zzz"),
    Query("model_version=%00", "model_version"),
    Query("since=2026-02-27T12:00:00", "since", "2026-02-27T12:00:00"),
    Query("until=2026-02-27T12:00:00", "until", "2026-02-27T12:00:00"),
    Query("since=2026-02-27", "since", "2026-02-27"),
    Query("since=1772193600", "since", "1772193600"),
    Query("since=zebra", "since", "zebra"),
    Query("since=2026-02-27T12:00:00+01:00", "since"),  # in a URL, + is a space
    Query("since=2026-02-30T12:00:00Z", "since", "2026-02-30"),
    Query("since=2026-02-27T25:00:00Z", "since", "T25"),
    Query("since=2026-02-27T12:00:00%2B25:00", "since", "25:00"),
    Query("since=0000-01-01T00:00:00Z", "since", "0000-01"),
    Query("since=10000-01-01T00:00:00Z", "since", "10000-01"),
    Query("since=0001-01-01T00:00:00%2B14:00", "since", "0001-01"),
    Query("until=9999-12-31T23:59:59-14:00", "until", "9999-12"),
    Query("cursor=", "cursor"),
    Query("cursor=zebra", "cursor", "zebra"),
    Query("cursor=%00", "cursor"),
    Query("cursor=%C3%A9", "cursor"),
    Query("colour=zebra", "colour", "zebra"),
    Query("LIMIT=7", "LIMIT"),
]


@pytest.mark.parametrize("case", QUERIES, ids=lambda case: case.text[:40])
async def test_predictions_with_an_invalid_query_is_422_and_names_the_parameter(
    shared_client: AsyncClient, case: Query
) -> None:
    response = await shared_client.get(f"/predictions?{case.text}")
    assert_problem(response, 422, "invalid-request", field=case.field)
    assert case.unseen is None or case.unseen not in response.text
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    "text",
    [
        "limit=1",
        "limit=1000",
        "skip=0",
        "skip=10000",
        "label=zebra",
        "since=0001-01-01T00:00:00Z",
        "until=9999-12-31T23:59:59Z",
        "since=2026-01-31t12:00:00.123456z",
        "since=2026-02-27T12:00:00%2B01:00",
    ],
)
async def test_predictions_with_a_boundary_value_in_the_query_is_200(
    shared_client: AsyncClient, text: str
) -> None:
    response = await shared_client.get(f"/predictions?{text}")
    assert response.status_code == 200
    assert response.json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "1_0",
        "abc",
        "%31%20",
        "1.0",
        "0x1",
        "%D9%A7",
        "%00",
        "1%00",
        "019c13ec9e7b774b8a3c5d1f9e2b7a40",
        "{019c13ec-9e7b-774b-8a3c-5d1f9e2b7a40}",
        "urn:uuid:019c13ec-9e7b-774b-8a3c-5d1f9e2b7a40",
    ],
)
async def test_predictions_with_an_invalid_prediction_id_is_422(
    shared_client: AsyncClient, text: str
) -> None:
    response = await shared_client.get(f"/predictions/{text}")
    assert_problem(response, 422, "invalid-request", field="prediction_id")


@pytest.mark.parametrize(
    "text",
    ["019c13ec-9e7b-774b-8a3c-5d1f9e2b7a40", "0", "1", str(2**63 - 1), str(2**63), "9" * 500],
)
async def test_predictions_with_an_unknown_prediction_id_is_404(
    shared_client: AsyncClient, text: str
) -> None:
    assert_problem(await shared_client.get(f"/predictions/{text}"), 404, "prediction-not-found")


@pytest.mark.parametrize(
    "path", ["/nowhere", "/predictions/", "/predictions/1/2", "/predict/", "/docs/assets/nowhere"]
)
async def test_unknown_path_is_404(shared_client: AsyncClient, path: str) -> None:
    assert_problem(await shared_client.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", {"POST"}),
        ("DELETE", "/predictions", {"GET", "HEAD"}),
        ("PUT", "/predictions/1", {"GET", "HEAD"}),
        ("POST", "/livez", {"GET", "HEAD"}),
        ("POST", "/docs", {"GET", "HEAD"}),
        ("POST", "/docs/assets/swagger-ui.css", {"GET", "HEAD"}),
        ("BREW", "/predict", {"POST"}),
    ],
)
async def test_routes_with_an_unsupported_method_are_405_with_the_allow_header(
    shared_client: AsyncClient,
    shared_connection: asyncpg.Connection,
    method: str,
    path: str,
    allowed: set[str],
) -> None:
    response = await shared_client.request(method, path, json=SETOSA)
    assert_problem(response, 405, "method-not-allowed")
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert await count_rows(shared_connection) == 0
