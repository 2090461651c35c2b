"""Bounds on what a request may bring."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iris_api.api.problems import problem_response
from iris_api.errors import BodyTooLarge

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose body, should there be one, nobody reads."""


class BodyLimitMiddleware:
    """Refuses a body over ``max_bytes``: at its head where it is announced, else on the way.

    FastAPI's own ``max_body_size`` would do, but answers an announced body as plain text.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with a bounded ``receive``."""
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self.app(scope, receive, send)
            return
        detail = f"The body is over {self.max_bytes} bytes. Send less at a time."
        if _announced_bytes(scope) > self.max_bytes:
            await problem_response(BodyTooLarge(detail), scope)(scope, receive, send)
            return
        taken = 0

        async def bounded_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_bytes:
                # FastAPI lets no other exception out of its reading of the body.
                raise HTTPException(BodyTooLarge.status, detail)
            return message

        await self.app(scope, bounded_receive, send)


def _announced_bytes(scope: Scope) -> int:
    """The value of Content-Length, which the server has checked; 0 without one."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
