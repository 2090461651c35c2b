import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from iris_api.errors import BodyTooLarge
from iris_api.settings import Settings
from iris_api.web.limits import Limits, LimitsMiddleware

LIMIT = 1024


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await Response(body)(scope, receive, send)


async def exchange(*chunks: bytes, announced: bytes | None = None) -> list[Message]:
    """Send a body in chunks through the middleware; what the application sends is returned."""
    incoming = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    incoming.append({"type": "http.request", "more_body": False})
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if announced is None else [(b"content-length", announced)]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "headers": [(b"host", b"iris"), *headers],
    }
    limits = Limits(Settings(max_body_bytes=LIMIT))
    try:
        await LimitsMiddleware(echo, limits=limits)(scope, receive, send)
    finally:
        assert (limits.requests, limits.held_bytes) == ({}, 0)
    return sent


@pytest.mark.parametrize("chunks", [[b"a" * LIMIT], [b"a" * 512, b"a" * 512], [b"a"] * LIMIT, []])
async def test_limits_middleware_with_a_body_within_the_limit_passes_it(
    chunks: list[bytes],
) -> None:
    body = b"".join(chunks)
    for announced in (None, b"%d" % len(body)):
        start, end = await exchange(*chunks, announced=announced)
        assert (start["status"], end["body"]) == (200, body)


@pytest.mark.parametrize("announced", [b"1025", b"9" * 100])
async def test_limits_middleware_with_too_large_a_content_length_is_413_before_reading(
    announced: bytes,
) -> None:
    start, body = await exchange(announced=announced)
    assert start["status"] == 413
    problem = json.loads(body["body"])
    assert problem["type"] == "urn:iris-api:problem:body-too-large"
    assert "over 1024 bytes" in problem["detail"]


@pytest.mark.parametrize("announced", [None, b"5", b"-1", b"x"])
async def test_limits_middleware_with_chunks_over_the_limit_raises_body_too_large(
    announced: bytes | None,
) -> None:
    with pytest.raises(BodyTooLarge, match="over 1024 bytes"):
        await exchange(b"a" * 600, b"a" * 500, announced=announced)


async def test_limits_middleware_with_a_lifespan_scope_passes_it_unchanged() -> None:
    calls: list[tuple[Any, ...]] = []

    async def note(*call: Any) -> None:
        calls.append(call)

    call: tuple[Any, ...] = ({"type": "lifespan"}, object(), object())
    await LimitsMiddleware(note, limits=Limits(Settings()))(*call)
    assert calls == [call]
