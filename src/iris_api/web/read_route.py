"""A route that only reads."""

from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send


class ReadRoute(APIRoute):
    """An `APIRoute` for GET that also answers HEAD (RFC 9110, section 9.1).

    FastAPI's own route takes only GET; with HEAD among its methods, it would document each endpoint
    twice. The endpoint sees a HEAD as a GET. The server, the log and the metrics see a HEAD, and
    the server leaves out the body.

    Responses are ``no-store``: each belongs to one client, or is true only now.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the application's handlers render what this raises."""
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})

        async def send_uncached(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        await super().handle({**scope, "method": "GET"}, receive, send_uncached)
