"""Every failure that the service can answer with, as a tree of classes.

::

    IrisApiError
    ├── ConfigurationError            (command line only)
    └── Problem
        ├── MalformedRequest      400
        │   └── MalformedBody
        ├── Unauthorized          401
        ├── Forbidden             403
        ├── NotFound              404
        │   └── PredictionNotFound
        ├── MethodNotAllowed      405
        ├── RequestTimeout        408
        ├── BodyTooLarge          413
        ├── UnsupportedMediaType  415
        ├── Misdirected           421
        ├── InvalidRequest        422
        ├── IdempotencyKeyReused  422
        ├── RateLimited           429
        ├── HeadersTooLarge       431
        ├── InternalError         500
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

A problem's slug, status and title are constants of its class; only ``detail`` varies. How one is
rendered as ``application/problem+json`` (RFC 9457) is `iris_api.web.problems`' matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Literal

_FIELDS_TOLD = 5
"""How many fields at fault the sentence for people names."""


class IrisApiError(Exception):
    """The root of all errors that this package raises on purpose."""


class ConfigurationError(IrisApiError):
    """What stands around the service does not fit; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field at fault.

    ``location`` and ``field`` say where it is (``body`` and ``items[3].name``), ``code`` is
    stable for programs, ``detail`` is for people. The offending value is never part of it.
    """

    location: Literal["body", "query", "path", "header"]
    field: str
    code: str
    detail: str


class Problem(IrisApiError):
    """A failure with an HTTP status. Subclasses fix ``slug``, ``status`` and ``title``."""

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
    def type_uri(cls) -> str:
        """The problem type of RFC 9457, section 3.1.1: stable, and the same on every deployment."""
        return f"urn:iris-api:problem:{cls.slug}"


class MalformedRequest(Problem):
    """What came is not a request of HTTP."""

    slug = "malformed-request"
    status = HTTPStatus.BAD_REQUEST
    title = "Malformed request"


class MalformedBody(MalformedRequest):
    """The request's body is not JSON, or not text."""

    slug = "malformed-body"
    title = "Malformed body"


def _challenge(parameters: Mapping[str, str]) -> dict[str, str]:
    """The header that tells a program which key to come back with (RFC 6750, section 3)."""
    told = {"realm": "iris-api", **parameters}
    return {"WWW-Authenticate": "Bearer " + ", ".join(f'{n}="{v}"' for n, v in told.items())}


class Unauthorized(Problem):
    """The request brings no API key, or one that is not valid."""

    slug = "unauthorized"
    status = HTTPStatus.UNAUTHORIZED
    title = "API key required"

    def __init__(self, detail: str, *, brings_key: bool = False) -> None:
        """RFC 6750, section 3.1: where no key came, nothing is said to be wrong with it."""
        wrong = {"error": "invalid_token"} if brings_key else {}
        super().__init__(detail, headers=_challenge(wrong))


class Forbidden(Problem):
    """The API key is valid, but not for this."""

    slug = "forbidden"
    status = HTTPStatus.FORBIDDEN
    title = "Scope missing"

    def __init__(self, detail: str, *, needed: str) -> None:
        """``needed`` is the scope that the key would have to have."""
        super().__init__(
            detail, headers=_challenge({"error": "insufficient_scope", "scope": needed})
        )


class NotFound(Problem):
    """No such resource."""

    slug = "not-found"
    status = HTTPStatus.NOT_FOUND
    title = "Not found"


class PredictionNotFound(NotFound):
    """No prediction has this id."""

    slug = "prediction-not-found"
    title = "Prediction not found"


class MethodNotAllowed(Problem):
    """The path exists, but not for this method."""

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
    """The body is over ``IRIS_MAX_BODY_BYTES``."""

    slug = "body-too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Body too large"


class UnsupportedMediaType(Problem):
    """The body is not declared to be JSON."""

    slug = "unsupported-media-type"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported media type"


class Misdirected(Problem):
    """The request is for a host whose name is not this service's."""

    slug = "misdirected"
    status = HTTPStatus.MISDIRECTED_REQUEST
    title = "Misdirected request"


class InvalidRequest(Problem):
    """Some fields do not fit; ``errors`` names them, or the first of very many."""

    slug = "invalid-request"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Invalid request"

    def __init__(self, errors: Sequence[FieldError], *, count: int | None = None) -> None:
        told = [f"{error.field}: {error.detail}" for error in errors[:_FIELDS_TOLD]]
        more = (count or len(errors)) - len(told)
        super().__init__("; ".join([*told, f"and {more} more"] if more else told))
        self.errors = errors


class IdempotencyKeyReused(Problem):
    """The ``Idempotency-Key`` belongs to an earlier request with another payload."""

    slug = "idempotency-key-reused"
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Idempotency-Key reused with another payload"


class RateLimited(Problem):
    """The client has sent as many requests as it may; ``Retry-After`` says when to go on."""

    slug = "rate-limited"
    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Too many requests"
    retry_after = 1

    def __init__(self, detail: str, *, retry_after: int, headers: Mapping[str, str]) -> None:
        super().__init__(detail, headers={**headers, "Retry-After": str(retry_after)})


class HeadersTooLarge(Problem):
    """The request's head is over ``IRIS_MAX_HEADER_BYTES``."""

    slug = "headers-too-large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "Request headers too large"


class InternalError(Problem):
    """A defect of the service. What happened is in its log, under the request's id."""

    slug = "internal-error"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    title = "Internal error"


class NotStored(Problem):
    """PostgreSQL refused the prediction, or did not store it as it was sent; nothing was stored.

    Neither the request nor the service is at fault, but something that was added to the tables.
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
    """The service cannot answer now, but may soon; ``Retry-After`` says when to ask again."""

    slug = "unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Service unavailable"
    retry_after = 1


class Overloaded(Unavailable):
    """More is at work, waits or is connected than the service lets; this one was not begun."""

    slug = "overloaded"
    title = "Overloaded"


class DeadlineExceeded(Unavailable):
    """The request took longer than ``IRIS_REQUEST_TIMEOUT``, or than a stop; nothing was stored."""

    slug = "deadline-exceeded"
    title = "Deadline exceeded"


class OutcomeUnknown(Unavailable):
    """Nobody can say whether the prediction was stored; the same ``Idempotency-Key`` finds out."""

    slug = "outcome-unknown"
    title = "Outcome unknown"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason} Whether the prediction was stored is not known. Send the request again with "
            "the same Idempotency-Key and it is stored once; without a key, look for it in "
            "GET /predictions first."
        )


class DatabaseUnavailable(Unavailable):
    """PostgreSQL did not answer, or not in time; nothing was stored."""

    slug = "database-unavailable"
    title = "Database unavailable"


class DatabaseUnsafe(Unavailable):
    """PostgreSQL would lose what it has confirmed, by settings of its own."""

    slug = "database-unsafe"
    title = "Database not durable"
    retry_after = 30


class SchemaOutdated(Unavailable):
    """The database's schema is older than this release, or another application's."""

    slug = "schema-outdated"
    title = "Schema outdated"
    retry_after = 30


class ModelUnavailable(Unavailable):
    """No model is loaded: there is none, or it was refused."""

    slug = "model-unavailable"
    title = "No model loaded"
    retry_after = 30


class NotReady(Unavailable):
    """Some part that the service needs is missing; ``checks`` shows the state of each."""

    slug = "not-ready"
    title = "Not ready"

    def __init__(self, detail: str, checks: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.extensions = {"checks": checks}
