"""All errors of the service, as a tree of classes.

::

    IrisApiError
    ├── ConfigurationError            (command line only)
    └── Problem
        ├── MalformedRequest      400
        │   └── MalformedBody
        ├── CursorOutdated        400
        ├── Unauthorized          401
        ├── Forbidden             403
        ├── CrossOriginRefused    403
        ├── NotFound              404
        │   └── PredictionNotFound
        ├── MethodNotAllowed      405
        ├── RequestTimeout        408
        ├── BodyTooLarge          413
        ├── UnsupportedMediaType  415
        ├── UnsupportedEncoding   415
        ├── Misdirected           421
        ├── InvalidRequest        422
        ├── IdempotencyKeyReused  422
        ├── RateLimited           429
        ├── HeadersTooLarge       431
        ├── InternalError         500
        ├── NotPredicted          500
        ├── NotStored             500
        └── Unavailable           503
            ├── Overloaded
            ├── DeadlineExceeded
            ├── OutcomeUnknown
            ├── DatabaseUnavailable
            ├── DatabaseUnsafe
            ├── SchemaOutdated
            ├── ModelUnavailable
            └── NotReady

A problem's slug, status and title are constants of its class; only ``detail`` varies.
`iris_api.web.problems` renders it as ``application/problem+json`` (RFC 9457).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Literal

_FIELDS_NAMED = 5
"""How many invalid fields ``detail`` names."""


class IrisApiError(Exception):
    """The root of all errors that this package raises on purpose."""


class ConfigurationError(IrisApiError):
    """The service's environment is not usable; the message says what to change."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field.

    ``location`` and ``field`` say where it is (``body`` and ``items[3].name``), ``code`` is
    stable for programs, ``detail`` is for people. The invalid value is never part of it.
    """

    location: Literal["body", "query", "path", "header"]
    field: str
    code: str
    detail: str


class Problem(IrisApiError):
    """An error with an HTTP status. Subclasses set ``slug``, ``status`` and ``title``."""

    slug: ClassVar[str]
    status: ClassVar[HTTPStatus]
    title: ClassVar[str]
    retry_after: ClassVar[int | None] = None  # seconds

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        if self.retry_after is not None:
            self.headers.setdefault("Retry-After", str(self.retry_after))
        self.errors: Sequence[FieldError] = ()
        self.extensions: Mapping[str, Any] = {}

    @classmethod
    def meaning(cls) -> str:
        """Return the first line of the docstring; the title where ``python -OO`` strips it."""
        return (cls.__doc__ or cls.title).partition("\n")[0]

    @classmethod
    def type_uri(cls) -> str:
        """Return the problem type (RFC 9457, section 3.1.1), stable and the same everywhere."""
        return f"urn:iris-api:problem:{cls.slug}"


class MalformedRequest(Problem):
    """The request is not valid HTTP."""

    slug = "malformed-request"
    status = HTTPStatus.BAD_REQUEST
    title = "Malformed request"


class MalformedBody(MalformedRequest):
    """The request's body is not valid JSON in UTF-8."""

    slug = "malformed-body"
    title = "Malformed body"


def _challenge(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the header that tells a program which API key to send (RFC 6750, section 3)."""
    challenge = {"realm": "iris-api", **parameters}
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{n}="{v}"' for n, v in challenge.items())}


class CursorOutdated(Problem):
    """The cursor is of a release whose predictions had other ids."""

    slug = "cursor-outdated"
    status = HTTPStatus.BAD_REQUEST
    title = "Cursor of an earlier release"


class Unauthorized(Problem):
    """The request has no API key, or one that is not valid."""

    slug = "unauthorized"
    status = HTTPStatus.UNAUTHORIZED
    title = "Valid API key required"

    def __init__(self, detail: str, *, brings_key: bool = False) -> None:
        """Without an API key, the header has no ``error`` (RFC 6750, section 3.1)."""
        wrong = {"error": "invalid_token"} if brings_key else {}
        super().__init__(detail, headers=_challenge(wrong))


class Forbidden(Problem):
    """The API key is valid, but lacks the scope for this request."""

    slug = "forbidden"
    status = HTTPStatus.FORBIDDEN
    title = "Scope missing"

    def __init__(self, detail: str, *, needed: str) -> None:
        """``needed`` is the scope that the API key lacks."""
        super().__init__(
            detail, headers=_challenge({"error": "insufficient_scope", "scope": needed})
        )


class CrossOriginRefused(Problem):
    """A browser asks whether a page may send a request, and ``IRIS_CORS_ORIGINS`` says no."""

    slug = "cross-origin-refused"
    status = HTTPStatus.FORBIDDEN
    title = "Cross-origin request refused"


class NotFound(Problem):
    """The resource does not exist."""

    slug = "not-found"
    status = HTTPStatus.NOT_FOUND
    title = "Not found"


class PredictionNotFound(NotFound):
    """The client has no prediction with this id."""

    slug = "prediction-not-found"
    title = "Prediction not found"


class MethodNotAllowed(Problem):
    """The path exists, but does not support this method."""

    slug = "method-not-allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED
    title = "Method not allowed"


class RequestTimeout(Problem):
    """The request did not arrive in time, so nothing was done."""

    slug = "request-timeout"
    status = HTTPStatus.REQUEST_TIMEOUT
    title = "Request timeout"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class BodyTooLarge(Problem):
    """The body is larger than ``IRIS_MAX_BODY_BYTES``."""

    slug = "body-too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Body too large"


class UnsupportedMediaType(Problem):
    """The body's ``Content-Type`` is not JSON."""

    slug = "unsupported-media-type"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported media type"


class UnsupportedEncoding(Problem):
    """The body has a ``Content-Encoding``, such as gzip."""

    slug = "unsupported-encoding"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported content encoding"

    def __init__(self, detail: str) -> None:
        """``Accept-Encoding`` says what is supported (RFC 9110, section 15.5.16)."""
        super().__init__(detail, headers={"Accept-Encoding": "identity"})


class Misdirected(Problem):
    """The request's ``Host`` is not a name of this service."""

    slug = "misdirected"
    status = HTTPStatus.MISDIRECTED_REQUEST
    title = "Misdirected request"


class InvalidRequest(Problem):
    """Some fields are invalid; ``errors`` names them, or the first of very many."""

    slug = "invalid-request"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Invalid request"

    def __init__(self, errors: Sequence[FieldError], *, count: int | None = None) -> None:
        named = [f"{error.field}: {error.detail}" for error in errors[:_FIELDS_NAMED]]
        more = (count or len(errors)) - len(named)
        super().__init__("; ".join([*named, f"and {more} more"] if more else named))
        self.errors = errors


class IdempotencyKeyReused(Problem):
    """The ``Idempotency-Key`` belongs to another payload, or to deleted predictions."""

    slug = "idempotency-key-reused"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Idempotency-Key already used"


class RateLimited(Problem):
    """The client has sent too many requests; ``Retry-After`` says when to continue."""

    slug = "rate-limited"
    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Too many requests"
    retry_after = 1

    def __init__(self, detail: str, *, retry_after: int, headers: Mapping[str, str]) -> None:
        super().__init__(detail, headers={**headers, "Retry-After": str(retry_after)})


class HeadersTooLarge(Problem):
    """The request line and headers are larger than ``IRIS_MAX_HEADER_BYTES``."""

    slug = "headers-too-large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "Request headers too large"


class InternalError(Problem):
    """The service has a defect. Its log says what happened, under the ``request_id``."""

    slug = "internal-error"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Internal error"


class NotPredicted(Problem):
    """The ML model gives no probabilities for these features; nothing was stored."""

    slug = "not-predicted"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "No prediction"

    def __init__(self, version: str, items: Sequence[int] = ()) -> None:
        """``items`` are the positions of the rows in the batch; empty: there is one row only."""
        rows = ", ".join(f"items[{item}]" for item in items[:_FIELDS_NAMED]) or "these features"
        more = f" and {len(items) - _FIELDS_NAMED} more" if len(items) > _FIELDS_NAMED else ""
        super().__init__(
            f"The model {version} gives no probabilities for {rows}{more}, perhaps because they "
            "are far from its training rows. Nothing was stored, and the same request fails again: "
            "leave such rows out. The operators may serve another model."
        )
        self.items = items


class NotStored(Problem):
    """PostgreSQL refused the prediction, or did not store it as sent; nothing was stored.

    The cause is not the request or the service, but something that was added to the tables.
    """

    slug = "not-stored"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Prediction not stored"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason} Nothing was stored. The operators have to look at the triggers, rules, "
            "row-level security policies, constraints and columns of iris_predictions and "
            "idempotency_keys; the service's log says what PostgreSQL said."
        )


class Unavailable(Problem):
    """The service is unavailable for now; ``Retry-After`` says when to try again."""

    slug = "unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Service unavailable"
    retry_after = 1


class Overloaded(Unavailable):
    """The service is stopping, or has too many requests or connections; nothing was stored."""

    slug = "overloaded"
    title = "Overloaded or stopping"


class DeadlineExceeded(Unavailable):
    """The request exceeded ``IRIS_REQUEST_TIMEOUT``, or a shutdown ended it; nothing was stored."""

    slug = "deadline-exceeded"
    title = "Not finished in time"


class OutcomeUnknown(Unavailable):
    """The prediction may or may not be stored; retry with the same ``Idempotency-Key``."""

    slug = "outcome-unknown"
    title = "Outcome unknown"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason} Whether the prediction was stored is not known. Send the request again with "
            "the same Idempotency-Key and it is stored once; without a key, look for it in "
            "GET /predictions first."
        )


class DatabaseUnavailable(Unavailable):
    """PostgreSQL is not available, or did not respond in time; nothing was stored."""

    slug = "database-unavailable"
    title = "Database unavailable"


class DatabaseUnsafe(Unavailable):
    """PostgreSQL could lose confirmed predictions, because of its settings or tables."""

    slug = "database-unsafe"
    title = "Database not durable"
    retry_after = 30


class SchemaOutdated(Unavailable):
    """The database's schema is missing, too old for this release, or another application's."""

    slug = "schema-outdated"
    title = "Schema missing or outdated"
    retry_after = 30


class ModelUnavailable(Unavailable):
    """No ML model is loaded: there is none, or the service refused it."""

    slug = "model-unavailable"
    title = "No model loaded"
    retry_after = 30


class NotReady(Unavailable):
    """The service is stopping or a part of it failed; ``checks`` has the state of each part."""

    slug = "not-ready"
    title = "Not ready"

    def __init__(self, detail: str, checks: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.extensions = {"checks": checks}
