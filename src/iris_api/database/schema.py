"""The models of HTTP requests and responses, separate from the tables.

The ``title`` of a model is its name in the OpenAPI document, so in generated clients.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from iris_api.iris import IrisFeatures as IrisFeatures  # noqa: PLC0414, its name here, too
from iris_api.iris import StoredFeatures

MAX_BATCH_ITEMS = 10_000
MAX_PAGE_ITEMS = 1000
MAX_SKIP = 10_000
MAX_REFERENCE = 200

_FORMER_ID_DIGITS = 19  # a former id has fewer
_DIGITS = re.compile("[0-9]{1,40}", re.ASCII)
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
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


def _prediction_id(value: Any) -> Any:
    """Read digits as a former id, 0 if none could be so large; and only hexadecimal as a UUID."""
    if isinstance(value, str):
        if value.isascii() and value.isdecimal():
            return int(value) if len(value) < _FORMER_ID_DIGITS else 0
        if not _UUID.fullmatch(value):
            raise PydanticCustomError("uuid_parsing", "Input should be a UUID, such as an `id`")
        return UUID(value)
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
_PageSize = Annotated[int, Field(ge=1, le=MAX_PAGE_ITEMS)]
_Skip = Annotated[int, Field(ge=0, le=MAX_SKIP)]
PredictionId = Annotated[UUID | int, BeforeValidator(_prediction_id, json_schema_input_type=UUID)]
"""A prediction's id; an integer is a former one."""
PageSize = Annotated[_PageSize, BeforeValidator(_whole_number, json_schema_input_type=_PageSize)]
RowsToSkip = Annotated[_Skip, BeforeValidator(_whole_number, json_schema_input_type=_Skip)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
"""A text that PostgreSQL can store: it has no character NUL."""
Reference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REFERENCE,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]+$",
        description="The caller's own name for the sample, without control characters; several "
        "predictions may have the same one",
        examples=["sample-42"],
    ),
]


class BatchItem(IrisFeatures):
    """A sample of a batch."""

    model_config = ConfigDict(title="BatchItem")

    reference: Reference | None = Field(None, description="As the header `Prediction-Reference`")


class IrisFeaturesBatch(BaseModel):
    """Many samples, of which all are predicted and stored, or none."""

    model_config = ConfigDict(title="FeaturesBatch", extra="forbid")

    items: Annotated[
        list[BatchItem],
        Field(
            min_length=1,
            max_length=MAX_BATCH_ITEMS,
            description=f"1 to {MAX_BATCH_ITEMS:,} samples, or fewer where the deployment says so",
        ),
    ]


class PredictionResponse(BaseModel):
    """A row of the history, without its features; also one that another program stored."""

    model_config = ConfigDict(title="PredictionResponse", from_attributes=True)

    id: UUID = Field(
        description="Names the prediction in `GET /predictions/{prediction_id}`; a UUID of "
        "version 7, which holds the time, so predictions of later requests have greater ones"
    )
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

    reference: str | None = Field(
        description="The caller's own name for the sample; null where it gave none"
    )


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
    reference: Text | None = Field(None, description="Only predictions with this reference")
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
