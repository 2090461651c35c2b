import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from httpx2 import AsyncClient
from tests.support.application import assert_problem, count_rows
from tests.support.flowers import JSON, SETOSA, flower

from iris_api.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


def flower_without(name: str) -> str:
    return json.dumps({key: value for key, value in SETOSA.items() if key != name})


@dataclass(frozen=True)
class Flower:
    """A flower that does not fit, the field at fault ("": all), and what no answer may hold."""

    text: str
    field: str = "sepal_length"
    unseen: str | None = None


FLOWERS = {
    "NaN": Flower(flower(sepal_length="NaN")),
    "Infinity": Flower(flower(petal_width="-Infinity"), "petal_width"),
    "past the largest float": Flower(flower(sepal_length="1e999"), unseen="1e999"),
    "below the smallest float": Flower(flower(sepal_length="1e-999"), unseen="1e-999"),
    "zero": Flower(flower(sepal_width="0"), "sepal_width"),
    "minus zero": Flower(flower(sepal_width="-0.0"), "sepal_width", "-0.0"),
    "negative": Flower(flower(sepal_length="-7.25"), unseen="7.25"),
    "over a metre": Flower(flower(sepal_length="100.00000000000001"), unseen="100.0"),
    "true": Flower(flower(petal_length="true"), "petal_length"),
    "null": Flower(flower(petal_length="null"), "petal_length"),
    "text": Flower(flower(sepal_length='"5.125"'), unseen="5.125"),
    "a list": Flower(flower(sepal_length="[5.125]"), unseen="5.125"),
    "an object": Flower(flower(sepal_length='{"secret": 1}'), unseen="secret"),
    "missing": Flower(flower_without("petal_width"), "petal_width"),
    "unknown": Flower(flower(colour='"secret"'), "colour", "secret"),
    "unknown, and long": Flower(flower(**{"x" * 5000: "1"}), "x" * 64, "x" * 1000),
}


@pytest.mark.parametrize("case", FLOWERS.values(), ids=FLOWERS)
async def test_predict_with_an_invalid_feature_is_422_and_names_the_field(
    shared_client: AsyncClient, shared_connection: asyncpg.Connection, case: Flower
) -> None:
    batch = f'{{"items": [{flower()}, {case.text}]}}'
    for path, content, name in [
        ("/predict", case.text, case.field or "body"),
        ("/predict/batch", batch, f"items[1].{case.field}".removesuffix(".")),
    ]:
        response = await shared_client.post(path, content=content, headers={"Content-Type": JSON})
        assert_problem(response, 422, "invalid-request", field=name)
        assert case.unseen is None or case.unseen not in response.text
    assert await count_rows(shared_connection) == 0


@dataclass(frozen=True)
class Body:
    """A body that does not fit as a whole."""

    content: bytes
    status: int = 400
    field: str | None = None
    content_type: str | None = JSON


SLUGS = {400: "malformed-body", 415: "unsupported-media-type", 422: "invalid-request"}
BODIES = {
    "cut off": Body(b"{"),
    "cut off in a name": Body(b'{"sepal'),
    "two values": Body(flower().encode() * 2),
    "not UTF-8": Body(b'{"sepal_length": "\xff\xfe"}'),
    "a lone surrogate in UTF-8": Body(b'{"sepal_length": "\xed\xa0\x80"}'),
    "a lone surrogate": Body(flower(sepal_length=r'"\ud800"').encode()),
    "a name of a lone surrogate": Body(flower(**{r"\ud800": "1"}).encode()),
    "lists, 50,000 deep": Body(b"[" * 50_000),
    "objects, 50,000 deep": Body(b'{"items":' * 50_000),
    "whole, 50,000 deep": Body(b"[" * 50_000 + b"]" * 50_000),
    "a number of 10,000 digits": Body(flower(sepal_length="9" * 10_000).encode()),
    "empty": Body(b""),
    "null": Body(b"null", 422, "body"),
    "a list": Body(f"[{flower()}]".encode(), 422, "body"),
    "a text": Body(b'"secret"', 422, "body"),
    "plain text": Body(flower().encode(), 415, content_type="text/plain"),
    "a form": Body(b"a=1", 415, content_type="application/x-www-form-urlencoded"),
    "of no type": Body(flower().encode(), 415, content_type=None),
}


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES)
async def test_predict_with_an_invalid_body_is_400_415_or_422(
    shared_client: AsyncClient, shared_connection: asyncpg.Connection, path: str, case: Body
) -> None:
    headers = {"Content-Type": case.content_type} if case.content_type else {}
    response = await shared_client.post(path, content=case.content, headers=headers)
    assert_problem(response, case.status, SLUGS[case.status], field=case.field)
    assert "secret" not in response.text
    assert len(response.content) < 10_000
    assert await count_rows(shared_connection) == 0


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("encoding", ["gzip", "br, gzip"])
async def test_predict_with_a_content_encoding_is_415_and_names_it_in_the_title(
    shared_client: AsyncClient, path: str, encoding: str
) -> None:
    headers = {"Content-Type": JSON, "Content-Encoding": encoding}
    response = await shared_client.post(path, content=gzip.compress(b"{}"), headers=headers)
    problem = assert_problem(response, 415, "unsupported-encoding")
    assert problem["title"] == "Unsupported content encoding"
    assert response.headers["Accept-Encoding"] == "identity"


UNKNOWN = [f"x{number}" for number in range(50_000)]
WRONG_ITEM = dict.fromkeys("abcd", 0)


@pytest.mark.parametrize(
    ("path", "body", "count", "first"),
    [
        ("/predict", SETOSA | dict.fromkeys(UNKNOWN, 0), 50_000, "x0"),
        ("/predict/batch", {"items": [WRONG_ITEM] * 10_000}, 80_000, "items[0].sepal_length"),
    ],
)
async def test_predict_with_very_many_invalid_fields_is_422_with_100_errors_and_a_count(
    shared_client: AsyncClient, path: str, body: dict[str, object], count: int, first: str
) -> None:
    response = await shared_client.post(path, json=body)
    told = assert_problem(response, 422, "invalid-request", field=first)
    assert told["detail"].endswith(f"; and {count - 5} more")
    assert len(told["errors"]) == 100


VALUES = {
    "lists": b'{"a": [[]' + b",[]" * 1_000_000 + b"]}",
    "objects": b'{"items": [{}' + b",{}" * 1_000_000 + b"]}",
    "names": b'{"a": 0' + b',"a": 0' * 100_000 + b"}",
    "deep ones": b"[" + (b"[" * 100 + b"]" * 100 + b",") * 1000 + b"0]",
    "texts": b'["a"' + b',"a"' * 500_000 + b"]",
    "numbers after a backslash": rb'["\\"' + b",0" * 500_000 + b"]",
    "numbers after a quote": rb'["\""' + b",0" * 500_000 + b"]",
}


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("content", VALUES.values(), ids=VALUES)
async def test_predict_with_too_many_json_values_is_422_without_parsing(
    shared_client: AsyncClient, path: str, content: bytes
) -> None:
    response = await shared_client.post(path, content=content, headers={"Content-Type": JSON})
    body = assert_problem(response, 422, "invalid-request", field="body")
    assert [error["code"] for error in body["errors"]] == ["too_many_values"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_predict_with_a_body_over_max_body_bytes_is_413(
    shared_client: AsyncClient,
    shared_connection: asyncpg.Connection,
    shared_settings: Settings,
    path: str,
    *,
    announced: bool,
) -> None:
    chunk = b" " * (shared_settings.max_body_bytes // 4)
    given = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(100):
            given += 1
            yield chunk

    content = chunk * 5 if announced else chunks()
    response = await shared_client.post(path, content=content, headers={"Content-Type": JSON})
    body = assert_problem(response, 413, "body-too-large")
    assert str(shared_settings.max_body_bytes) in body["detail"]
    assert given <= 5
    assert await count_rows(shared_connection) == 0
