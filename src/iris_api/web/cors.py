"""Cross-origin requests: which web pages may call the service from a browser."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from iris_api.errors import CrossOriginRefused
from iris_api.web.problems import problem_response

_METHODS = ("GET", "HEAD", "POST")
_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Prediction-Reference",
    "X-Request-ID",
)
_RESPONSE_HEADERS = (
    "Accept-Encoding",
    "Allow",
    "Content-Location",
    "Link",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Settled-Until",
    "WWW-Authenticate",
    "X-Request-ID",
)
"""What a page may read beside the headers that browsers always show."""
_ALLOWED = (
    "IRIS_CORS_ORIGINS lists the origins that may send requests; the methods are "
    f"{', '.join(_METHODS)}, the headers {', '.join(_REQUEST_HEADERS)}."
)


class CrossOriginMiddleware(CORSMiddleware):
    """Starlette's middleware, whose refusal of a preflight is a problem here.

    It allows no credentials: the service has no cookies, and a page sends an API key by itself.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight; else run the application, and add headers to its response."""
        try:
            await super().__call__(scope, receive, send)
        except CrossOriginRefused as problem:
            await problem_response(problem, scope)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The response to a preflight. Raises `CrossOriginRefused`."""
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:  # noqa: PLR2004, HTTP's errors
            raise CrossOriginRefused(f"{bytes(response.body).decode()}. {_ALLOWED}")
        return response
