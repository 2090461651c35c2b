"""A route that only reads."""

from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send


class ReadRoute(APIRoute):
    """An `APIRoute` for GET that answers HEAD as well, as RFC 9110 has it (section 9.1).

    FastAPI's own takes GET alone; with HEAD among its methods it would document each twice. The
    endpoint takes a HEAD for a GET; the server, which sees the request as it came, leaves out the
    body, and so do the log and the metrics see it.

    No cache keeps an answer: it is one client's own, or true only for now.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the application's handlers answer for what is raised."""
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})

        async def send_unkept(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        await super().handle({**scope, "method": "GET"}, receive, send_unkept)
