"""The application: its parts put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from anyio import to_thread
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from starlette.types import ASGIApp

from iris_api import __version__
from iris_api.api import model, operations, predict, predictions
from iris_api.auth.key_cache import Keyring
from iris_api.auth.rate_limit import RateLimiter
from iris_api.background import in_background
from iris_api.database.session import create_engine, create_session_factory
from iris_api.errors import ModelUnavailable
from iris_api.inference import InferenceEngine, load_artifact
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import ObservabilityMiddleware
from iris_api.recording.readiness import DatabaseCheck
from iris_api.recording.recorder import Recorder
from iris_api.recording.retention import forget_old_keys
from iris_api.resources import Resources, ServedModel
from iris_api.settings import Settings
from iris_api.web.access import AccessMiddleware
from iris_api.web.json_route import DirectMiddleware
from iris_api.web.limits import Limits, LimitsMiddleware
from iris_api.web.openapi import install_documentation
from iris_api.web.problems import failure_response, install_problem_handlers

_IN_USE = "iris_in_use"
_SECONDS_TO_TAKE_LEAVE = 1.0
log = structlog.get_logger("iris_api")


class IrisApi(FastAPI):
    """FastAPI, begun at the service's own outermost middleware.

    What FastAPI puts around it, `ObservabilityMiddleware` does already, or nobody asked for;
    passing through it costs a request as much as its validation.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's stack, from `ObservabilityMiddleware` inwards."""
        stack = super().build_middleware_stack()
        while not isinstance(stack, ObservabilityMiddleware):
            stack = stack.app  # type: ignore[attr-defined]  # each of these layers has one
        return stack


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Opens nothing: that is the lifespan's part, and it ends it too."""
    metrics = Metrics()
    limits = Limits(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Never fails for the database or the model: without them the service is not ready."""
        engine = create_engine(settings)
        _measure_pool(engine, metrics, settings.database_pool_size)
        app.state.session_factory = create_session_factory(engine)
        recorder = Recorder(
            engine,
            max_group=settings.max_batch,
            max_waiting=settings.max_waiting,
            max_wait=settings.max_wait,
            max_in_flight=settings.database_groups_in_flight,
            metrics=metrics,
        )
        keyring = Keyring(app.state.session_factory, remember=settings.key_cache_seconds)
        database_check = DatabaseCheck(
            app.state.session_factory, recorder.trouble, timeout=settings.readiness_timeout
        )
        model = await _load_model(settings, metrics)
        app.state.resources = Resources(
            metrics=metrics,
            session_factory=app.state.session_factory,
            recorder=recorder,
            keyring=keyring,
            database_check=database_check,
            model=model,
            open_access=settings.auth != "keys",
            root_path=settings.root_path,
            max_batch_items=settings.max_batch_items,
            max_page_items=settings.max_page_items,
        )
        try:
            async with in_background(
                limits.watch, partial(forget_old_keys, app.state.session_factory, settings)
            ):
                yield
        finally:
            if isinstance(model, ServedModel):
                await model.engine.aclose()
            await recorder.aclose()
            await keyring.aclose()
            await database_check.aclose()
            await _take_leave(engine)

    app = IrisApi(
        title="Iris API",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # served from local files instead, below
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        # Nothing here sends spans, and to look for who might take them costs each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.root_path = settings.root_path  # as an argument it warns, in favour of one of uvicorn's
    app.state.is_stopping = False
    app.state.metrics = metrics
    for part in (predict, predictions, model, operations):
        app.include_router(part.router)
    install_documentation(app)
    install_problem_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(DirectMiddleware, routes=predict.router.routes)
    if settings.auth == "keys" or settings.rate_limit is not None:
        app.add_middleware(
            AccessMiddleware, needs_key=settings.auth == "keys", limiter=_rate_limiter(settings)
        )
    app.add_middleware(LimitsMiddleware, limits=limits)
    app.add_middleware(ObservabilityMiddleware, metrics=metrics, render_failure=failure_response)
    return app


async def _take_leave(engine: AsyncEngine) -> None:
    """Close the pool's connections, for as long as that may take.

    SQLAlchemy does so one after the other, and waits up to 4 s for each where PostgreSQL is frozen.
    PostgreSQL needs no farewell: the process's end closes them as well.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS_TO_TAKE_LEAVE):
            await engine.dispose()


def _rate_limiter(settings: Settings) -> RateLimiter | None:
    if settings.rate_limit is None:
        return None
    return RateLimiter(settings.rate_limit, settings.rate_limit_window)


async def _load_model(settings: Settings, metrics: Metrics) -> ServedModel | ModelUnavailable:
    try:
        loaded = await to_thread.run_sync(
            lambda: load_artifact(settings.model_dir, expected_sha256=settings.model_sha256)
        )
    except ModelUnavailable as problem:
        log.error("model refused", detail=problem.detail)  # noqa: TRY400, expected: no traceback
        return problem
    engine = InferenceEngine(
        loaded.classifier,
        threads=settings.inference_threads,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
        max_wait=settings.max_wait,
        metrics=metrics,
    )
    return ServedModel(loaded.manifest, engine)


def _measure_pool(engine: AsyncEngine, metrics: Metrics, size: int) -> None:
    metrics.set_connections_limit(size)
    pool = engine.sync_engine.pool

    def check_out(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        record.info[_IN_USE] = True
        metrics.connection_checked_out()

    def check_in(_connection: object, record: ConnectionPoolEntry) -> None:
        if record.info.pop(_IN_USE, False):  # a checkout that failed comes here as well
            metrics.connection_checked_in()

    event.listen(pool, "checkout", check_out)
    event.listen(pool, "checkin", check_in)
