import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from iris_api import errors
from iris_api.errors import (
    FieldError,
    InvalidRequest,
    IrisApiError,
    NotReady,
    Problem,
    RateLimited,
    Unavailable,
)

DRAWN = re.compile(r"^([ │├└─]*)([A-Z]\w+)(?: +(\d{3}))?", re.MULTILINE)
FIELD = FieldError("query", "limit", "too_small", "Input should be at least 1")


def descendants(cls: type[IrisApiError]) -> Iterator[type[IrisApiError]]:
    for child in cls.__subclasses__():
        if child.__module__.startswith("iris_api."):
            yield child
            yield from descendants(child)


ALL: list[type[IrisApiError]] = [IrisApiError, *descendants(IrisApiError)]
PROBLEMS = [cls for cls in ALL if issubclass(cls, Problem) and cls is not Problem]


def drawn_tree() -> Iterator[tuple[str, str | None, int | None]]:
    """Each class of the docstring's tree, with its parent and the status beside it or above it."""
    path: list[tuple[int, str, int | None]] = []
    assert errors.__doc__ is not None
    drawing = errors.__doc__.partition("::")[2].partition("\n\nA problem's")[0]
    for indent, name, status in DRAWN.findall(drawing):
        while path and path[-1][0] >= len(indent):
            path.pop()
        _, parent, inherited = path[-1] if path else (0, None, None)
        path.append((len(indent), name, int(status) if status else inherited))
        yield name, parent, path[-1][2]


def test_errors_docstring_shows_the_actual_class_tree() -> None:
    assert sorted(drawn_tree()) == sorted(
        (
            cls.__name__,
            None if cls is IrisApiError else cls.__bases__[0].__name__,
            getattr(cls, "status", None),
        )
        for cls in ALL
    )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_class_has_a_slug_a_status_and_a_title(problem: type[Problem]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", problem.slug)
    assert problem.type_uri() == f"urn:iris-api:problem:{problem.slug}"
    assert isinstance(problem.status, HTTPStatus)
    assert 400 <= problem.status < 600
    assert problem.title
    assert problem.__doc__


@pytest.mark.parametrize("attribute", ["slug", "title"])
def test_problem_classes_have_unique_slugs_and_titles(attribute: str) -> None:
    values = [getattr(problem, attribute) for problem in PROBLEMS]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problem_class_has_a_retry_after_only_if_unavailable_or_rate_limited(
    problem: type[Problem],
) -> None:
    unavailable = issubclass(problem, Unavailable)
    assert unavailable == (problem.status == HTTPStatus.SERVICE_UNAVAILABLE)
    assert (unavailable or problem is RateLimited) == (problem.retry_after is not None)


def test_problem_with_retry_after_keeps_its_other_headers() -> None:
    problem = Unavailable("Soon.", headers={"X-Hint": "1"})
    assert problem.headers == {"X-Hint": "1", "Retry-After": "1"}
    assert str(problem) == problem.detail == "Soon."


def test_invalid_request_detail_names_the_first_five_fields() -> None:
    problem = InvalidRequest([FIELD] * 7)
    told = ["limit: Input should be at least 1"] * 5
    assert problem.detail == "; ".join([*told, "and 2 more"])
    assert InvalidRequest([FIELD] * 5).detail == "; ".join(told)
    assert InvalidRequest([FIELD] * 7, count=9).detail == "; ".join([*told, "and 4 more"])
    assert problem.errors == [FIELD] * 7


def test_not_ready_has_its_checks_as_an_extension() -> None:
    problem = NotReady("database: gone", {"database": "failed"})
    assert problem.extensions == {"checks": {"database": "failed"}}
