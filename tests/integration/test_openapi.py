import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from httpx2 import AsyncClient
from tests.integration.routes import ask
from tests.support.application import PROBLEM, document
from tests.support.flowers import SETOSA

from iris_api.app import create_app
from iris_api.settings import Settings

OPERATIONS = [
    (method, path) for path, operations in document()["paths"].items() for method in operations
]
# 404 and 405 of an unknown path belong to no operation; 500 can befall each.
_ACCESS = {401, 403, 429, 503}
STATUSES = {
    "post /predict": {200, 400, 408, 413, 415, 422, 500} | _ACCESS,
    "post /predict/batch": {200, 400, 408, 413, 415, 422, 500} | _ACCESS,
    "get /predictions": {200, 400, 422, 500} | _ACCESS,
    "get /predictions/{prediction_id}": {200, 308, 404, 422, 500} | _ACCESS,
    "get /model": {200, 500} | _ACCESS,
    "get /livez": {200, 500},
    "get /readyz": {200, 500, 503},
    "get /metrics": {200, 500} | _ACCESS - {429},
}


OPERATION_IDS = {
    "post /predict": "predict",
    "post /predict/batch": "predictBatch",
    "get /predictions": "listPredictions",
    "get /predictions/{prediction_id}": "getPrediction",
    "get /model": "getModel",
    "get /livez": "getLiveness",
    "get /readyz": "getReadiness",
    "get /metrics": "getMetrics",
}
SCHEMAS = {
    "BatchItem",
    "Check",
    "FeatureSummary",
    "Features",
    "FeaturesBatch",
    "Liveness",
    "ModelCard",
    "Prediction",
    "PredictionBatch",
    "PredictionPage",
    "ProblemDetails",
    "ProblemField",
    "Readiness",
    "Scores",
    "StoredPrediction",
}
NULLABLE = {
    ("BatchItem", "reference"),
    ("PredictionPage", "next_cursor"),
    ("StoredPrediction", "model_version"),
    ("StoredPrediction", "probabilities"),
    ("StoredPrediction", "reference"),
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
    for operation in operations:
        assert operation["summary"]
        for response in operation["responses"].values():
            assert response["description"] not in {"", "Successful Response"}
    tags = {tag["name"] for tag in document()["tags"] if tag["description"]}
    assert {tag for operation in operations for tag in operation["tags"]} == tags
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


def test_openapi_schemas_have_the_names_of_the_api_and_are_all_used() -> None:
    prefix = "#/components/schemas/"
    references = [value for key, value in walk(document()) if key == "$ref"]
    used = {one.removeprefix(prefix) for one in references if one.startswith(prefix)}
    assert used == set(document()["components"]["schemas"]) == SCHEMAS


def test_openapi_operations_have_the_short_names_of_their_endpoints() -> None:
    assert {
        f"{method} {path}": document()["paths"][path][method]["operationId"]
        for method, path in OPERATIONS
    } == OPERATION_IDS


def test_openapi_fields_and_parameters_all_have_a_description() -> None:
    for name, schema in document()["components"]["schemas"].items():
        for field, about in schema["properties"].items():
            assert about["description"], f"{name}.{field}"
    for method, path in OPERATIONS:
        for parameter in document()["paths"][path][method].get("parameters", ()):
            assert parameter["description"], f"{method} {path}: {parameter['name']}"


def test_openapi_allows_null_only_where_a_value_may_be_missing() -> None:
    assert {
        (name, field)
        for name, schema in document()["components"]["schemas"].items()
        for field, about in schema["properties"].items()
        if {"type": "null"} in about.get("anyOf", ())
    } == NULLABLE
    for method, path in OPERATIONS:
        for parameter in document()["paths"][path][method].get("parameters", ()):
            assert "null" not in json.dumps(parameter["schema"])


def test_openapi_ids_of_predictions_are_uuids_everywhere() -> None:
    of_a_uuid = {"type": "string", "format": "uuid"}
    schemas = document()["components"]["schemas"]
    for name in ("Prediction", "StoredPrediction"):
        assert schemas[name]["properties"]["id"].items() >= of_a_uuid.items()
    [parameter] = document()["paths"]["/predictions/{prediction_id}"]["get"]["parameters"]
    assert parameter["schema"].items() >= of_a_uuid.items()


def test_openapi_has_one_description_of_a_reference() -> None:
    of_predict = document()["paths"]["/predict"]["post"]["parameters"]
    [header] = [one for one in of_predict if one["name"] == "Prediction-Reference"]
    assert header["in"] == "header"
    field = document()["components"]["schemas"]["BatchItem"]["properties"]["reference"]
    in_item, or_null = field["anyOf"]
    assert or_null == {"type": "null"}
    bounds = {name: header["schema"][name] for name in ("minLength", "maxLength", "pattern")}
    assert in_item.items() >= bounds.items()


def shape(value: Any) -> Any:
    """The names in their order; each value as its type."""
    match value:
        case {"scores": scores, **others} if isinstance(scores, dict):
            return [*shape(others), ("scores", shape(list(scores.values())))]
        case dict():
            return [(name, shape(part)) for name, part in value.items()]
        case list():
            return shape(value[0])
    return type(value)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_openapi_examples_have_the_shape_of_the_responses(
    client: AsyncClient, method: str, path: str
) -> None:
    for _ in range(3):
        stored = await client.post("/predict", json=SETOSA, headers={"Prediction-Reference": "a"})
    if path == "/predictions":
        response = await client.get(path, params={"limit": 2})
    elif path == "/predictions/{prediction_id}":
        response = await client.get(stored.headers["Content-Location"])
    else:
        response = await ask(client, f"{method.upper()} {path}", {})
    assert response.status_code == 200
    [content] = document()["paths"][path][method]["responses"]["200"]["content"].values()
    if isinstance(content["example"], str):
        assert set(content["example"].splitlines()) & set(response.text.splitlines())
    else:
        assert shape(content["example"]) == shape(response.json())


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
        for slug, reference in examples.items():
            example = resolve(reference["$ref"])["value"]
            assert set(example) >= required
            assert example["type"] == f"urn:iris-api:problem:{slug}"
            assert example["status"] == int(status)
            assert f"\n- `{slug}`: {example['detail']}" in response["description"]
        headers = response.get("headers", {})
        assert ("Retry-After" in headers) == (status in {"429", "503"})
        assert ("WWW-Authenticate" in headers) == (status in {"401", "403"})


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_predict_with_the_openapi_example_is_200(client: AsyncClient, path: str) -> None:
    [content] = document()["paths"][path]["post"]["requestBody"]["content"].values()
    example = content["example"]
    for sample in example.get("items", [example]):
        assert list(sample) in ([*SETOSA], [*SETOSA, "reference"])
    assert (await client.post(path, json=example)).status_code == 200


@pytest.mark.parametrize("auth", ["off", "keys"])
def test_openapi_asks_for_an_api_key_only_where_the_service_does(auth: str) -> None:
    made = create_app(Settings.model_validate({"auth": auth})).openapi()
    needs_key = auth == "keys"
    for method, path in OPERATIONS:
        is_open = not needs_key or path in {"/livez", "/readyz"}
        assert made["paths"][path][method]["security"] == ([] if is_open else [{"bearer": []}])
    assert ("securitySchemes" in made["components"]) == needs_key


@pytest.mark.parametrize(("root_path", "url"), [("", "/"), ("/iris", "/iris")])
def test_openapi_has_the_root_path_as_its_server(root_path: str, url: str) -> None:
    made = create_app(Settings.model_validate({"root_path": root_path})).openapi()
    assert made["servers"] == [{"url": url}]


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
