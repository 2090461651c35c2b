"""The endpoints that read the history of predictions."""

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse

from iris_api.database import crud
from iris_api.database.cursor import Cursor, FormerCursorError
from iris_api.database.deps import get_db
from iris_api.database.schema import PageQuery, PredictionId, PredictionInDB, PredictionPage
from iris_api.errors import (
    CursorOutdated,
    DeadlineExceeded,
    FieldError,
    InternalError,
    InvalidRequest,
    PredictionNotFound,
)
from iris_api.resources import ProcessResources
from iris_api.web.access import ACCESS_PROBLEMS, SECURED, Reader
from iris_api.web.examples import PAGE, STORED, success
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
    "description": "Sent with `since`: no more predictions from before this time will appear. To "
    "poll, pass it as the next `since`, and skip the ids that you have.",
    "schema": {"type": "string", "format": "date-time"},
}
_MOVED_HEADER = {
    "description": "The prediction's URL, with the UUID that its `id` has become",
    "schema": {"type": "string", "format": "uri-reference"},
}
_LINK_HEADER = {
    "description": 'The next page: `<...>; rel="next"`; absent on the last one',
    "schema": {"type": "string"},
}


@router.get(
    "/predictions",
    summary="List predictions, newest first",
    response_description="One page of the history",
    responses={
        **success(PAGE, headers={"Link": _LINK_HEADER, _SETTLED: _SETTLED_HEADER}),
        **problem_responses(CursorOutdated),
    },
    openapi_extra=SECURED,
)
async def list_predictions(
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
        response.headers[_SETTLED] = _rfc3339(await crud.settled_until(session))
    page = await crud.list_predictions(
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
    response_description="The stored prediction",
    responses={
        **success(STORED),
        308: {
            "description": "The prediction of release 0.1.0 with this number",
            "headers": {"Location": _MOVED_HEADER},
        },
        **problem_responses(PredictionNotFound),
    },
    response_model=PredictionInDB,
    openapi_extra=SECURED,
)
async def get_prediction(
    prediction_id: Annotated[PredictionId, Path(description="The `id` of a prediction")],
    caller: Reader,
    resources: ProcessResources,
    session: Session,
) -> PredictionInDB | RedirectResponse:
    """One stored prediction, with its features."""
    if isinstance(prediction_id, int):
        present_id = await crud.find_former_id(session, prediction_id, client=caller.client)
        if present_id is not None:
            root_path = resources.settings.root_path
            return RedirectResponse(f"{root_path}/predictions/{present_id}", status_code=308)
    else:
        row = await crud.get_prediction(session, prediction_id, client=caller.client)
        if row is not None:
            return PredictionInDB.model_validate(row)
    raise PredictionNotFound("No prediction has this id. GET /predictions lists them.")


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
    """The last row before the page; None without a cursor.

    Raises `InvalidRequest` or `CursorOutdated`.
    """
    if query.cursor is None:
        return None
    if query.skip:
        raise InvalidRequest(
            [FieldError("query", "skip", "conflict", "Give either `skip` or `cursor`, not both")]
        )
    try:
        return Cursor.decode(query.cursor)
    except FormerCursorError:
        raise CursorOutdated(
            "This `cursor` is of an earlier release. Start again without one."
        ) from None
    except ValueError:
        raise InvalidRequest(
            [
                FieldError(
                    "query",
                    "cursor",
                    "cursor_invalid",
                    "Pass a `next_cursor` unchanged, or none",
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
