"""The models of HTTP requests and responses, separate from the tables.

The ``title`` of a model is its name in the OpenAPI document, so in generated clients.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from iris_api.iris import IrisFeatures as IrisFeatures  # noqa: PLC0414, its name here, too
from iris_api.iris import StoredFeatures

MAX_BATCH_ITEMS = 10_000
MAX_PAGE_ITEMS = 1000
MAX_SKIP = 10_000
MAX_ID = 2**63 - 1
"""The largest value of PostgreSQL's bigint."""

_DIGITS = re.compile("[0-9]{1,40}", re.ASCII)
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_TO_MICROSECONDS = len(".000000")
_MICROSECOND = timedelta(microseconds=1)
_LAST_INSTANT = datetime.max.replace(tzinfo=UTC)


def _whole_number(value: Any) -> Any:
    """Accept only digits: pydantic would read ``1_0``, `` 5`` and ``5.0`` as numbers too."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be a whole number, in digits")
    return value


def _instant(value: Any) -> Any:
    """Accept only RFC 3339 with an offset: pydantic would read bare numbers and dates too.

    PostgreSQL's times are whole microseconds, so a fraction of one is rounded up: the same rows are
    before it. Python cuts it off, and an earlier row would count as made then.
    """
    if isinstance(value, datetime):
        return value
    match = _RFC3339.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "datetime_parsing",
            "Input should be a time as in RFC 3339, with an offset: 2026-01-31T12:00:00Z "
            "(in a URL, + is written %2B)",
        )
    try:
        instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
        is_cut = bool((match[1] or "")[_TO_MICROSECONDS:].strip("0"))
        return instant + _MICROSECOND if is_cut and instant < _LAST_INSTANT else instant
    except (ValueError, OverflowError):
        raise PydanticCustomError("datetime_parsing", "Input is not a time that exists") from None


Instant = Annotated[AwareDatetime, BeforeValidator(_instant, json_schema_input_type=AwareDatetime)]
# The inner types have the bounds, so that the OpenAPI document shows them too.
_Id = Annotated[int, Field(ge=1, le=MAX_ID)]
_PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE_ITEMS)]
_Skip = Annotated[int, Field(ge=0, le=MAX_SKIP)]
PredictionId = Annotated[_Id, BeforeValidator(_whole_number, json_schema_input_type=_Id)]
PageSize = Annotated[_PageSize, BeforeValidator(_whole_number, json_schema_input_type=_PageSize)]
RowsToSkip = Annotated[_Skip, BeforeValidator(_whole_number, json_schema_input_type=_Skip)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
"""A text that PostgreSQL can store: it has no character NUL."""


class IrisFeaturesBatch(BaseModel):
    """Many samples, of which all are predicted and stored, or none."""

    model_config = ConfigDict(title="FeaturesBatch", extra="forbid")

    items: Annotated[
        list[IrisFeatures],
        Field(
            min_length=1,
            max_length=MAX_BATCH_ITEMS,
            description=f"1 to {MAX_BATCH_ITEMS:,} samples, or fewer where the deployment says so",
        ),
    ]


class PredictionResponse(BaseModel):
    """A row of the history, without its features; also one that another program stored."""

    model_config = ConfigDict(title="PredictionResponse", from_attributes=True)

    id: int = Field(description="Names the prediction in `GET /predictions/{prediction_id}`")
    prediction: int = Field(description="The class, as its position in the ML model's classes")
    prediction_label: str = Field(description="The class, by name")
    probabilities: dict[str, float] | None = Field(
        description="The probability of each class, by label, with the sum 1; "
        "null where another program stored the row without them"
    )
    model_version: str | None = Field(
        description="The ML model that predicted; "
        "null where another program stored the row without it"
    )
    created_at: AwareDatetime = Field(description="When the transaction that stored it began")


class Prediction(PredictionResponse):
    """A prediction that PostgreSQL has committed."""

    model_config = ConfigDict(title="Prediction")

    probabilities: dict[str, float] = Field(
        description="The probability of each class, by label, with the sum 1"
    )
    model_version: str = Field(description="The ML model that predicted")


class PredictionInDB(StoredFeatures, PredictionResponse):
    """A stored prediction, with its features."""

    model_config = ConfigDict(title="StoredPrediction")


class PredictionBatch(BaseModel):
    """The predictions of a batch."""

    items: list[Prediction] = Field(description="In the order of the request's items")


class PredictionPage(BaseModel):
    """One page of the history."""

    items: list[PredictionInDB] = Field(description="Newest first")
    next_cursor: str | None = Field(
        description="The `cursor` of the page after this one; null on the last page"
    )


class PredictionFilters(BaseModel):
    """Which predictions to list; an omitted filter does not restrict."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: Text | None = Field(
        None,
        description="Only predictions with this `prediction_label`. It may be a label of an "
        "earlier ML model, so an unknown one finds nothing; `classes` of `GET /model` "
        "has the present ones",
    )
    model_version: Text | None = Field(None, description="Only predictions of this ML model")
    since: Instant | None = Field(None, description="Only predictions made then or later")
    until: Instant | None = Field(None, description="Only predictions made before")


class PageQuery(PredictionFilters):
    """The query of ``GET /predictions``."""

    limit: PageSize = Field(
        50, description="Most predictions on the page; the deployment may allow fewer"
    )
    skip: RowsToSkip = Field(
        0, description="Rows to pass over, to count pages; not together with `cursor`"
    )
    cursor: Text | None = Field(None, description="The `next_cursor` of the page before")
