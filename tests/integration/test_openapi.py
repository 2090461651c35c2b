import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from httpx2 import AsyncClient
from tests.support.application import PROBLEM, document

OPERATIONS = [
    (method, path) for path, operations in document()["paths"].items() for method in operations
]
# 404 and 405 of an unknown path belong to no operation; 500 can befall each.
_ACCESS = {401, 403, 429, 503}
STATUSES = {
    "post /predict": {200, 400, 408, 413, 415, 422, 500} | _ACCESS,
    "post /predict/batch": {200, 400, 408, 413, 415, 422, 500} | _ACCESS,
    "get /predictions": {200, 422, 500} | _ACCESS,
    "get /predictions/{prediction_id}": {200, 404, 422, 500} | _ACCESS,
    "get /model": {200, 500} | _ACCESS,
    "get /livez": {200, 500},
    "get /readyz": {200, 500, 503},
    "get /metrics": {200, 500} | _ACCESS - {429},
}


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of the document, at any depth, with what it holds."""
    if isinstance(value, dict):
        yield from value.items()
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)


def resolve(reference: str) -> Any:
    target: Any = document()
    assert reference.startswith("#/")
    for step in reference.removeprefix("#/").split("/"):
        target = target[step]
    return target


async def test_openapi_json_equals_the_built_document(client: AsyncClient) -> None:
    response = await client.get("/openapi.json")
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document()))


def test_openapi_document_has_the_required_fields() -> None:
    assert document()["openapi"].startswith("3.1.")
    assert document()["info"]["title"]
    assert document()["info"]["version"]
    operations = [document()["paths"][path][method] for method, path in OPERATIONS]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"]
        assert all(response["description"] for response in operation["responses"].values())
    for path, item in document()["paths"].items():
        for operation in item.values():
            declared = [
                one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"
            ]
            assert declared == re.findall(r"{([^}]+)}", path)


def test_openapi_references_all_resolve() -> None:
    references = [value for key, value in walk(document()) if key == "$ref"]
    assert references
    for reference in references:
        assert resolve(reference)


def test_openapi_schemas_are_all_used() -> None:
    used = {value.rpartition("/")[2] for key, value in walk(document()) if key == "$ref"}
    assert used == set(document()["components"]["schemas"])


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_openapi_operation_documents_every_status(method: str, path: str) -> None:
    responses = document()["paths"][path][method]["responses"]
    assert {int(status) for status in responses} == STATUSES[f"{method} {path}"]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_openapi_operation_documents_every_error_as_its_problem(method: str, path: str) -> None:
    responses = document()["paths"][path][method]["responses"]
    required = set(document()["components"]["schemas"]["ProblemDetails"]["required"])
    assert required >= {"type", "title", "status", "detail", "instance", "request_id"}
    for status, response in responses.items():
        if int(status) < 400:
            continue
        assert list(response["content"]) == [PROBLEM]
        examples = response["content"][PROBLEM]["examples"]
        assert examples
        for slug, example in examples.items():
            assert set(example["value"]) >= required
            assert example["value"]["type"] == f"urn:iris-api:problem:{slug}"
            assert example["value"]["status"] == int(status)
        headers = response.get("headers", {})
        assert ("Retry-After" in headers) == (status in {"429", "503"})
        assert ("WWW-Authenticate" in headers) == (status in {"401", "403"})


async def test_predict_with_the_openapi_example_is_200(client: AsyncClient) -> None:
    [example] = document()["components"]["schemas"]["IrisFeatures"]["examples"]
    assert (await client.post("/predict", json=example)).status_code == 200


async def test_docs_script_and_style_come_from_this_server(client: AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.status_code == 200
    assert "://" not in response.text
    assert not re.search(r"""["'(]//""", response.text)
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", response.text)
    assert len(links) >= 4
    for link in links:
        asset = await client.get(urljoin("/docs", link))
        assert asset.status_code == 200, link
        assert asset.content


async def test_root_redirects_to_docs(client: AsyncClient) -> None:
    response = await client.get("/", follow_redirects=True)
    assert response.status_code == 200
    assert response.url.path == "/docs"
