"""The header ``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header-07)."""

import re
from typing import Annotated, Any

from fastapi import Depends, Request

from iris_api.errors import FieldError, InvalidRequest

_NAME = "Idempotency-Key"
_RAW_NAME = b"idempotency-key"
_QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"')
"""A String of RFC 8941, section 3.3.3, as the draft requires."""
_BARE = re.compile(rb"[!#-~][!-~]{0,254}")
"""A value without quotes, as most clients send it."""

IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": _NAME,
    "in": "header",
    "required": False,
    "description": "1 to 255 printable ASCII characters that the client chooses, such as "
    "a UUID, quoted or bare; spaces only in quotes. A repeated request with the same key "
    "and payload gets the response of the first one, byte for byte.",
    "schema": {
        "type": "string",
        "pattern": r'^([!#-~][!-~]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$',
    },
}
"""The parameter, for the OpenAPI document."""


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key; None without one. Raises `InvalidRequest` if malformed or repeated."""
    values = [value for name, value in request.scope["headers"] if name == _RAW_NAME]
    if not values:
        return None
    [value, *others] = values
    value = value.strip()
    if not others and (quoted := _QUOTED.fullmatch(value)):
        return re.sub(rb"\\(.)", rb"\1", quoted[1]).decode("ascii")
    if not others and _BARE.fullmatch(value):
        return str(value, "ascii")
    raise InvalidRequest(
        [
            FieldError(
                "header",
                _NAME,
                "idempotency_key_invalid",
                "Send it once, with 1 to 255 printable ASCII characters, such as a UUID; spaces "
                'only in double quotes: "a b"',
            )
        ]
    )


Key = Annotated[str | None, Depends(idempotency_key)]
