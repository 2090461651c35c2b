"""The endpoints that read the history of predictions."""

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.crud import get_prediction, list_predictions, settled_until
from iris_api.database.cursor import Cursor
from iris_api.database.deps import get_db
from iris_api.database.schema import PageQuery, PredictionId, PredictionInDB, PredictionPage
from iris_api.errors import (
    DeadlineExceeded,
    FieldError,
    InternalError,
    InvalidRequest,
    PredictionNotFound,
)
from iris_api.resources import ProcessResources
from iris_api.web.access import ACCESS_PROBLEMS, SECURED, Reader
from iris_api.web.limits import require_at_most
from iris_api.web.problems import problem_responses
from iris_api.web.read_route import ReadRoute

router = APIRouter(
    route_class=ReadRoute,
    tags=["history"],
    responses=problem_responses(*ACCESS_PROBLEMS, InvalidRequest, InternalError, DeadlineExceeded),
)

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
_SETTLED = "Settled-Until"
_SETTLED_HEADER = {
    "description": "With `since`: no prediction that is dated before this time will still appear. "
    "Who polls passes it as the next `since`, and passes over the ids that it has already.",
    "schema": {"type": "string", "format": "date-time"},
}


@router.get(
    "/predictions",
    summary="List predictions, newest first",
    responses={200: {"headers": {_SETTLED: _SETTLED_HEADER}}},
    openapi_extra=SECURED,
)
async def read_predictions(
    query: Annotated[PageQuery, Query()],
    request: Request,
    response: Response,
    caller: Reader,
    resources: ProcessResources,
    session: Session,
) -> PredictionPage:
    """One page. Follow the header `Link: <...>; rel="next"`, or pass `next_cursor` as `cursor`."""
    limit = _page_size(query, resources.settings.max_page_items)
    if query.since is not None:
        response.headers[_SETTLED] = _rfc3339(await settled_until(session))
    page = await list_predictions(
        session,
        query,
        client=caller.client,
        limit=limit,
        skip=query.skip,
        after=_position(query),
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
    openapi_extra=SECURED,
)
async def read_prediction(
    prediction_id: Annotated[PredictionId, Path(description="As in a prediction's `id`")],
    caller: Reader,
    session: Session,
) -> PredictionInDB:
    """One stored prediction, with its features."""
    row = await get_prediction(session, prediction_id, client=caller.client)
    if row is None:
        raise PredictionNotFound("No prediction has this id. GET /predictions lists them.")
    return PredictionInDB.model_validate(row)


def _page_size(query: PageQuery, most: int) -> int:
    """The query's ``limit``, or a default. Raises `InvalidRequest` if it is over ``most``."""
    if "limit" not in query.model_fields_set:
        return min(query.limit, most)
    require_at_most("query", "limit", query.limit, most)
    return query.limit


def _rfc3339(instant: datetime) -> str:
    """The time in the same format as in JSON responses."""
    return instant.isoformat().replace("+00:00", "Z")


def _position(query: PageQuery) -> Cursor | None:
    """The last row before the page; None without a cursor. Raises `InvalidRequest`."""
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
    """The URL of the next page, without scheme and host, so that it works behind any proxy."""
    query = [
        (name, value)
        for name, value in request.query_params.multi_items()
        if name not in {"cursor", "skip"}
    ]
    path = request.scope.get("root_path", "") + "/predictions"
    return f"{path}?{urlencode([*query, ('cursor', next_cursor)])}"
