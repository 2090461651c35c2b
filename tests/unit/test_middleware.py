import asyncio
import re
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from iris_api.observability.access_log import log_fields
from iris_api.observability.logging import request_id_of_context
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import ObservabilityMiddleware
from iris_api.web.problems import failure_response

Exchange = Callable[..., Coroutine[Any, Any, list[Message]]]
GENERATED_ID = re.compile(r"[0-9a-f]{32}")


async def greet(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ArithmeticError("n0t-to-be-told")


async def fail_midway(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ArithmeticError("midway")


async def be_cancelled(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise asyncio.CancelledError


def observed(app: ASGIApp, metrics: Metrics, *, is_stopping: bool = False) -> ASGIApp:
    return ObservabilityMiddleware(
        app, metrics=metrics, render_failure=failure_response, is_stopping=lambda: is_stopping
    )


@pytest.fixture
def exchange(metrics: Metrics) -> Exchange:
    """Send one request through the middleware; what the application sends is returned."""

    async def exchange(app: ASGIApp, *headers: tuple[bytes, bytes], **scope: Any) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        request = {"type": "http", "method": "GET", "path": "/", "headers": headers, **scope}
        await observed(app, metrics)(request, receive, send)
        return sent

    return exchange


def counted(metrics: Metrics, method: str, route: str, status: int) -> float | None:
    labels = {"method": method, "route": route, "status": str(status)}
    return metrics.registry.get_sample_value("iris_http_requests_total", labels)


def response_ids(sent: list[Message]) -> list[str]:
    return [value.decode() for name, value in sent[0]["headers"] if name.lower() == b"x-request-id"]


async def test_observability_middleware_adds_a_request_id_to_the_response(
    exchange: Exchange,
) -> None:
    sent = await exchange(greet)
    [request_id] = response_ids(sent)
    assert GENERATED_ID.fullmatch(request_id)
    assert (sent[0]["status"], sent[1]["body"]) == (200, b"hello")


async def test_observability_middleware_gives_each_request_its_own_id(exchange: Exchange) -> None:
    assert response_ids(await exchange(greet)) != response_ids(await exchange(greet))


@pytest.mark.parametrize("value", [b"a", b"9.A-z_:0", b"x" * 128])
async def test_observability_middleware_keeps_a_valid_request_id_of_the_client(
    exchange: Exchange, value: bytes
) -> None:
    assert response_ids(await exchange(greet, (b"x-request-id", value))) == [value.decode()]


@pytest.mark.parametrize(
    "value", [b"", b" ", b"x" * 129, b"a b", b"a\nb", b"a\n", b'"', b"\xe9", b"a\x00", b"<script>"]
)
async def test_observability_middleware_replaces_a_harmful_request_id_of_the_client(
    exchange: Exchange, value: bytes
) -> None:
    [request_id] = response_ids(await exchange(greet, (b"x-request-id", value)))
    assert GENERATED_ID.fullmatch(request_id)


async def test_observability_middleware_sets_the_request_id_only_during_the_request(
    exchange: Exchange,
) -> None:
    known: list[str | None] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        known.append(request_id_of_context.get())
        await greet(scope, receive, send)

    await exchange(note, (b"x-request-id", b"mine"))
    assert known == ["mine"]
    assert request_id_of_context.get() is None


async def test_observability_middleware_with_an_unexpected_error_logs_it_and_answers_500(
    exchange: Exchange, metrics: Metrics
) -> None:
    with capture_logs() as logs:
        start, body = await exchange(fail, (b"x-request-id", b"mine"), path="/predict")
    assert start["status"] == 500
    assert response_ids([start]) == ["mine"]
    assert b'"request_id": "mine"' in body["body"]
    assert b"n0t-to-be-told" not in body["body"]
    assert [(line["event"], line["path"]) for line in logs] == [
        ("unhandled_error", "/predict"),
        ("request", "/predict"),
    ]
    assert logs[0]["exc_info"]
    assert counted(metrics, "GET", "unmatched", 500) == 1


async def test_observability_middleware_with_an_error_during_the_response_logs_and_reraises_it(
    exchange: Exchange, metrics: Metrics
) -> None:
    with capture_logs() as logs, pytest.raises(ArithmeticError, match="midway"):
        await exchange(fail_midway)
    assert logs[0]["event"] == "unhandled_error"
    assert counted(metrics, "GET", "unmatched", 200) == 1
    assert request_id_of_context.get() is None


async def test_observability_middleware_with_a_cancelled_request_counts_status_0(
    exchange: Exchange, metrics: Metrics
) -> None:
    with pytest.raises(asyncio.CancelledError):
        await exchange(be_cancelled)
    assert counted(metrics, "GET", "unmatched", 0) == 1
    assert request_id_of_context.get() is None


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_observability_middleware_with_another_scope_passes_it_unchanged(
    metrics: Metrics, kind: str
) -> None:
    calls: list[tuple[Any, ...]] = []

    async def note(*call: Any) -> None:
        calls.append(call)

    call: tuple[Any, ...] = ({"type": kind}, object(), object())
    await observed(note, metrics)(*call)
    assert calls == [call]
    assert b"iris_http_requests_total{" not in metrics.render()


@pytest.mark.parametrize("is_stopping", [False, True])
async def test_observability_middleware_closes_connections_while_the_service_stops(
    metrics: Metrics, *, is_stopping: bool
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await observed(greet, metrics, is_stopping=is_stopping)(scope, receive, send)
    assert ((b"connection", b"close") in sent[0]["headers"]) == is_stopping


async def test_observability_middleware_counts_and_times_requests_by_route_template(
    exchange: Exchange, metrics: Metrics
) -> None:
    route = SimpleNamespace(path="/predictions/{prediction_id}")
    for number in range(3):
        await exchange(greet, path=f"/predictions/{number}", route=route)
    assert counted(metrics, "GET", route.path, 200) == 3
    labels = {"method": "GET", "route": route.path}
    timed = "iris_http_request_duration_seconds_count"
    assert metrics.registry.get_sample_value(timed, labels) == 3


async def test_observability_middleware_with_unknown_methods_and_paths_adds_one_series(
    exchange: Exchange, metrics: Metrics
) -> None:
    for number in range(3):
        await exchange(greet, path=f"/{number}", method=f"BREW{number}")
    assert counted(metrics, "other", "unmatched", 200) == 3
    assert metrics.render().count(b"iris_http_requests_total{") == 1


async def test_observability_middleware_logs_one_line_for_each_request(exchange: Exchange) -> None:
    with capture_logs() as logs:
        await exchange(greet, path="/predict", method="POST", client=("10.0.0.7", 50_000))
    [line] = logs
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "method": "POST",
        "path": "/predict",
        "peer": "10.0.0.7",
        "status": 200,
    }


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_observability_middleware_logs_a_probe_at_debug_unless_it_fails(
    exchange: Exchange, path: str
) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("no", 503)(scope, receive, send)

    route = SimpleNamespace(path=path)
    with capture_logs() as logs:
        await exchange(greet, path=f"/behind/a/proxy{path}", route=route)
        await exchange(refuse, path=path, route=route)
        await exchange(greet, path=path)  # not the service's own
    assert [line["log_level"] for line in logs] == ["debug", "info", "info"]


async def test_observability_middleware_logs_what_an_inner_layer_adds_to_a_copy_of_the_scope(
    exchange: Exchange,
) -> None:
    async def add(scope: Scope, receive: Receive, send: Send) -> None:
        copy = {**scope}
        log_fields(copy)["id"] = 7
        await greet(copy, receive, send)

    with capture_logs() as logs:
        await exchange(add)
    assert [line["id"] for line in logs] == [7]


async def test_observability_middleware_counts_a_problem_by_its_slug(
    exchange: Exchange, metrics: Metrics
) -> None:
    with capture_logs() as logs:
        await exchange(fail)
        await exchange(greet)
    value = metrics.registry.get_sample_value(
        "iris_http_problems_total", {"problem": "internal-error"}
    )
    assert value == 1
    assert [line.get("problem") for line in logs if line["event"] == "request"] == [
        "internal-error",
        None,
    ]
