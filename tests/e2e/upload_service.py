"""`iris-api` with one more route, `POST /upload`, whose body is streamed: it counts its lines."""

from fastapi import Request
from fastapi.routing import APIRoute

from iris_api.__main__ import main
from iris_api.api import predict
from iris_api.web.limits import STREAMED, limited


@limited(STREAMED)
async def upload(request: Request) -> int:
    count = 0
    async for part in request.stream():
        count += part.count(b"\n")
    return count


predict.router.add_api_route("/upload", upload, methods=["POST"], route_class_override=APIRoute)
if __name__ == "__main__":
    main()
