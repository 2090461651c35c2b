"""Builds the application from its parts."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Scope

from iris_api import __version__
from iris_api.api import model, operations, predict, predictions
from iris_api.auth.rate_limit import RateLimiter
from iris_api.background import background_tasks
from iris_api.observability.metrics import Metrics
from iris_api.observability.middleware import ObservabilityMiddleware
from iris_api.recording.months import keep_months, watch_horizon
from iris_api.recording.retention import forget_old_keys
from iris_api.resources import Resources
from iris_api.settings import Settings
from iris_api.web.access import AccessMiddleware
from iris_api.web.cors import CrossOriginMiddleware
from iris_api.web.json_route import JsonRouteMiddleware
from iris_api.web.limits import Limits, LimitsMiddleware
from iris_api.web.openapi import install_documentation, operation_id
from iris_api.web.problems import failure_response, install_problem_handlers
from iris_api.web.request_head import RequestHeadMiddleware


class IrisApi(FastAPI):
    """FastAPI without the layers around the service's own outermost middleware.

    `ObservabilityMiddleware` does all that the service needs of those layers, which would cost a
    request as much as its validation.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's stack, from `ObservabilityMiddleware` inwards."""
        stack = super().build_middleware_stack()
        while not isinstance(stack, ObservabilityMiddleware):
            stack = stack.app  # type: ignore[attr-defined]  # each of these layers has one
        return stack


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Opens nothing: the lifespan opens and closes the resources."""
    metrics = Metrics()
    limits = Limits(settings)
    metrics.read_at_scrape(metrics.requests_in_flight, lambda: len(limits.requests))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        resources = app.state.resources = await Resources.from_settings(settings, metrics)
        app.state.session_factory = resources.session_factory  # where `get_db` looks for it
        tasks = (
            limits.watch,
            metrics.watch,
            partial(forget_old_keys, resources.session_factory, settings),
            partial(watch_horizon, resources.session_factory, resources.horizon),
            partial(keep_months, settings),
        )
        try:
            async with background_tasks(*tasks):
                yield
        finally:
            await resources.aclose()

    app = IrisApi(
        title="Iris API",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # served from local files instead, below
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        # Nothing here sends spans, and the search for a receiver would cost each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.root_path = settings.root_path  # FastAPI's argument is deprecated for uvicorn's
    routers = [part.router for part in (predict, predictions, model, operations)]
    for router in routers:
        app.include_router(router)
    install_documentation(app, needs_key=settings.auth == "keys")
    install_problem_handlers(app)
    routes = [route for router in routers for route in router.routes]
    _add_middleware(app, settings, metrics, limits, routes)
    return app


def _add_middleware(
    app: FastAPI,
    settings: Settings,
    metrics: Metrics,
    limits: Limits,
    routes: Sequence[BaseRoute],
) -> None:
    """Add the layers around the routes, the innermost first."""
    app.add_middleware(JsonRouteMiddleware, routes=routes)
    if settings.auth == "keys" or settings.rate_limit is not None:
        app.add_middleware(
            AccessMiddleware, needs_key=settings.auth == "keys", limiter=_rate_limiter(settings)
        )
    app.add_middleware(LimitsMiddleware, limits=limits, routes=routes)
    app.add_middleware(RequestHeadMiddleware, allowed_names=_allowed_hosts(settings))
    if settings.cors_origins:
        # Around the limits and the API keys: a page must be able to read their problems as well,
        # and a preflight brings no API key.
        app.add_middleware(CrossOriginMiddleware, origins=settings.cors_origins)
    app.add_middleware(
        ObservabilityMiddleware,
        metrics=metrics,
        render_failure=_failure_response(settings),
        is_stopping=lambda: app.state.resources.is_stopping,
    )


def _failure_response(settings: Settings) -> Callable[[Scope], ASGIApp]:
    """What renders an unhandled error; it does so outside of `CrossOriginMiddleware`."""
    origins = settings.cors_origins
    if not origins:
        return failure_response
    return lambda scope: CrossOriginMiddleware(failure_response(scope), origins=origins)


def _allowed_hosts(settings: Settings) -> frozenset[str] | None:
    return frozenset({"localhost", settings.host.lower()}) if settings.auth is None else None


def _rate_limiter(settings: Settings) -> RateLimiter | None:
    if settings.rate_limit is None:
        return None
    return RateLimiter(settings.rate_limit, settings.rate_limit_window)
