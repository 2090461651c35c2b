import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tests.support.flowers import SETOSA

from iris_api.database.schema import IrisFeatures, IrisFeaturesBatch, PageQuery
from iris_api.errors import (
    DatabaseUnavailable,
    FieldError,
    InvalidRequest,
    MalformedBody,
    ModelUnavailable,
    NotFound,
    NotReady,
    Problem,
)
from iris_api.observability.logging import request_id_of_context
from iris_api.web.problems import (
    ProblemDetails,
    failure_response,
    problem_of_validation,
    problem_response,
    problem_responses,
)

SECRET = "n0t-to-be-echoed"  # noqa: S105, no password
LOCATIONS = get_args(get_type_hints(FieldError)["location"])


def errors_of(model: type[BaseModel], value: object, location: str) -> list[dict[str, Any]]:
    """Pydantic's errors for a value, placed as FastAPI places them."""
    with pytest.raises(ValidationError) as refusal:
        model.model_validate(value)
    return [{**error, "loc": (location, *error["loc"])} for error in refusal.value.errors()]


def rendered(problem: Problem, path: str = "/predict") -> dict[str, Any]:
    response = problem_response(problem, {"type": "http", "path": path})
    assert response.media_type == "application/problem+json"
    assert response.status_code == problem.status
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body


def at(*location: str | int) -> Sequence[Mapping[str, Any]]:
    return [{"loc": location, "type": "missing", "msg": "Field required", "input": SECRET}]


def test_problem_of_validation_names_each_wrong_field_with_its_location() -> None:
    items = [SETOSA, SETOSA, SETOSA, {**SETOSA, "sepal_length": True, "petal_width": 101}]
    problem = problem_of_validation(errors_of(IrisFeaturesBatch, {"items": items}, "body"))
    assert isinstance(problem, InvalidRequest)
    assert [(error.location, error.field, error.code) for error in problem.errors] == [
        ("body", "items[3].sepal_length", "float_type"),
        ("body", "items[3].petal_width", "less_than_equal"),
    ]
    assert problem.detail.startswith("items[3].sepal_length: Input should be a valid number; ")


def test_problem_of_validation_with_1000_errors_reads_only_the_first_100() -> None:
    """To look at each would hold up all other requests."""
    errors: list[Mapping[str, Any]] = [*list(at("body", "first")) * 100, *[{}] * 900]
    for problem in (problem_of_validation(errors), problem_of_validation(errors[:100], count=1000)):
        assert [error.field for error in problem.errors] == ["first"] * 100
        assert problem.detail.endswith("; and 995 more")


@pytest.mark.parametrize("location", LOCATIONS)
def test_problem_of_validation_names_a_field_of_any_location(location: str) -> None:
    [error] = problem_of_validation(at(location, "limit")).errors
    assert (error.location, error.field) == (location, "limit")


@pytest.mark.parametrize("location", LOCATIONS)
def test_problem_of_validation_without_a_field_names_the_location(location: str) -> None:
    [error] = problem_of_validation(at(location)).errors
    assert (error.location, error.field) == (location, location)


@pytest.mark.parametrize(
    ("model", "value", "location"),
    [
        (IrisFeatures, {**SETOSA, "sepal_length": SECRET}, "body"),
        (IrisFeatures, SECRET, "body"),
        (IrisFeatures, [SECRET], "body"),
        (IrisFeaturesBatch, {"items": SECRET}, "body"),
        (PageQuery, {"limit": SECRET}, "query"),
        (PageQuery, {"since": SECRET}, "query"),
        (PageQuery, {"since": "2026-02-30T12:34:56Z"}, "query"),
        (PageQuery, {"label": SECRET + "\x00"}, "query"),
        (PageQuery, {"cursor": SECRET * 20}, "query"),
    ],
)
def test_problem_of_validation_never_shows_the_input(
    model: type[BaseModel], value: Any, location: str
) -> None:
    text = json.dumps(rendered(problem_of_validation(errors_of(model, value, location))))
    assert SECRET not in text
    assert "12:34:56" not in text


@given(st.lists(st.text(st.characters()) | st.integers(0, 10**6), max_size=5))
def test_problem_of_validation_with_any_field_name_renders_it_in_printable_ascii(
    path: list[str | int],
) -> None:
    [error] = rendered(problem_of_validation(at("body", *path)))["errors"]
    assert error["field"].isascii()
    assert error["field"].isprintable()


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("\ud800", "?"),
        ("a\x00b", "a?b"),
        ("\x1b[31m\r\n", "?[31m??"),
        ("né", "n?"),
        ("a" * 10_000, "a" * 64),
        ("é" * 10_000, "?" * 64),
    ],
)
def test_problem_of_validation_with_a_harmful_field_name_cuts_and_cleans_it(
    name: str, field: str
) -> None:
    problem = problem_of_validation(at("body", name))
    assert rendered(problem)["errors"][0]["field"] == field


def test_problem_of_validation_with_invalid_json_is_malformed_body() -> None:
    message = "Invalid JSON: EOF while parsing an object at line 1 column 1"
    errors = [{"type": "json_invalid", "loc": ("body", 17), "msg": message, "input": SECRET}]
    problem = problem_of_validation(errors)
    assert isinstance(problem, MalformedBody)
    assert SECRET not in problem.detail


def test_problem_response_renders_at_most_100_errors() -> None:
    problem = problem_of_validation([*at("body", "a")] * 150)
    assert len(rendered(problem)["errors"]) == 100


@pytest.mark.parametrize(
    ("path", "instance"),
    [
        ("/predictions/1", "/predictions/1"),
        ("/a b", "/a%20b"),
        ("/é", "/%C3%A9"),
        ("/\ud800", "/%ED%A0%80"),
        ("/\x00", "/%00"),
        ('/"\\', "/%22%5C"),
        ("/a?b#c%d", "/a%3Fb%23c%25d"),
        ("/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@"),
        ("//elsewhere/x", "/.//elsewhere/x"),
        ("*", "*"),
    ],
)
def test_problem_response_has_the_path_as_a_uri_reference_in_instance(
    path: str, instance: str
) -> None:
    assert rendered(NotFound("Nothing."), path)["instance"] == instance


@given(st.text(st.characters()).map("/".__add__))
def test_problem_response_with_any_path_has_it_quoted_in_instance(path: str) -> None:
    instance = rendered(NotFound("Nothing."), path)["instance"]
    parts = urlsplit(instance)
    assert instance == parts.path
    assert instance.isascii()
    assert unquote(instance, errors="surrogatepass").removeprefix("/.") == path.removeprefix("/.")


def test_problem_response_has_the_members_of_rfc_9457() -> None:
    token = request_id_of_context.set("id-1")
    try:
        body = rendered(DatabaseUnavailable("Gone."))
    finally:
        request_id_of_context.reset(token)
    assert body == {
        "type": "urn:iris-api:problem:database-unavailable",
        "title": "Database unavailable",
        "status": 503,
        "detail": "Gone.",
        "instance": "/predict",
        "request_id": "id-1",
    }


def test_problem_response_has_the_headers_and_extensions_of_its_problem() -> None:
    problem = NotReady("No model.", {"model": {"status": "failed"}})
    response = problem_response(problem, {"type": "http", "path": "/readyz"})
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert rendered(problem)["checks"] == {"model": {"status": "failed"}}


def test_failure_response_is_500_without_details() -> None:
    response = failure_response({"type": "http", "path": "/predict"})
    assert response.status_code == 500
    assert json.loads(bytes(response.body))["request_id"] is None


def test_problem_responses_show_an_example_of_each_problem_for_openapi() -> None:
    responses = problem_responses(ModelUnavailable, NotFound, DatabaseUnavailable)
    assert list(responses) == [404, 503]
    assert "headers" not in responses[404]
    assert "Retry-After" in responses[503]["headers"]
    examples = responses[503]["content"]["application/problem+json"]["examples"]
    assert set(examples) == {"model-unavailable", "database-unavailable"}
    for slug, example in examples.items():
        assert ProblemDetails.model_validate(example["value"]).status == 503
        assert f"- `{slug}`: {example['value']['detail']}" in responses[503]["description"]
