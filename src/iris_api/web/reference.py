"""The header ``Prediction-Reference``: the caller's own name for a sample."""

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import TypeAdapter

from iris_api.database.schema import MAX_REFERENCE, Reference
from iris_api.errors import FieldError, InvalidRequest

_NAME = "Prediction-Reference"
_RAW_NAME = b"prediction-reference"
_REFERENCE = TypeAdapter(Reference)

REFERENCE: dict[str, Any] = {
    "name": _NAME,
    "in": "header",
    "required": False,
    "description": "The caller's own name for the sample, in UTF-8: the history finds its "
    "prediction by it. Several predictions may have the same one.",
    "schema": _REFERENCE.json_schema(),
}
"""The parameter, for the OpenAPI document."""


def prediction_reference(request: Request) -> str | None:
    """The reference; None without one. Raises `InvalidRequest` if malformed or repeated."""
    values = [value for name, value in request.scope["headers"] if name == _RAW_NAME]
    if not values:
        return None
    try:
        [value] = values
        return _REFERENCE.validate_python(value.strip(b" \t").decode())
    except ValueError:  # sent twice, not UTF-8, or not a Reference
        detail = (
            f"Send it once, with 1 to {MAX_REFERENCE} characters in UTF-8, none of them a control "
            "character"
        )
        raise InvalidRequest([FieldError("header", _NAME, "reference_invalid", detail)]) from None


PredictionReference = Annotated[str | None, Depends(prediction_reference)]
