"""Read the history of predictions."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request, Response

from iris_api.api.problems import problem_responses
from iris_api.api.resources import Session
from iris_api.database.crud import get_prediction, list_predictions
from iris_api.database.cursor import Cursor
from iris_api.database.schema import PageQuery, PredictionId, PredictionInDB, PredictionPage
from iris_api.errors import (
    DatabaseUnavailable,
    FieldError,
    InternalError,
    InvalidRequest,
    PredictionNotFound,
    SchemaOutdated,
)

router = APIRouter(
    tags=["history"],
    responses=problem_responses(InvalidRequest, InternalError, DatabaseUnavailable, SchemaOutdated),
)


@router.get("/predictions", summary="List predictions, newest first")
async def read_predictions(
    query: Annotated[PageQuery, Query()], request: Request, response: Response, session: Session
) -> PredictionPage:
    """One page. Follow the header `Link: <...>; rel="next"`, or pass `next_cursor` as `cursor`."""
    page = await list_predictions(
        session, query, limit=query.limit, skip=query.skip, after=_position(query)
    )
    next_cursor = page.next_cursor and page.next_cursor.encode()
    if next_cursor:
        response.headers["Link"] = f'<{_next_url(request, next_cursor)}>; rel="next"'
    return PredictionPage(
        items=[PredictionInDB.model_validate(row) for row in page.items], next_cursor=next_cursor
    )


@router.get(
    "/predictions/{prediction_id}",
    summary="Read one prediction",
    responses=problem_responses(PredictionNotFound),
)
async def read_prediction(
    prediction_id: Annotated[PredictionId, Path(description="As in a prediction's `id`")],
    session: Session,
) -> PredictionInDB:
    """What was asked, and what was answered."""
    row = await get_prediction(session, prediction_id)
    if row is None:
        raise PredictionNotFound("No prediction has this id. GET /predictions lists them.")
    return PredictionInDB.model_validate(row)


def _position(query: PageQuery) -> Cursor | None:
    """The row that the page starts behind. Raises `InvalidRequest`, which names the field."""
    if query.cursor is None:
        return None
    if query.skip:
        raise InvalidRequest(
            [FieldError("query", "skip", "conflict", "Give either `skip` or `cursor`, not both")]
        )
    try:
        return Cursor.decode(query.cursor)
    except ValueError:
        raise InvalidRequest(
            [
                FieldError(
                    "query", "cursor", "cursor_invalid", "Pass a `next_cursor` unchanged, or none"
                )
            ]
        ) from None


def _next_url(request: Request, next_cursor: str) -> str:
    """The same query behind this page: relative, so that it holds behind any proxy."""
    query = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in {"cursor", "skip"}
    ]
    path = request.scope.get("root_path", "") + "/predictions"
    return f"{path}?{urlencode([*query, ('cursor', next_cursor)])}"
