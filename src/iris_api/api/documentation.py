"""The OpenAPI document, and a page that shows it without a script from elsewhere."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from iris_api.api.problems import ProblemDetails

_DESCRIPTION = """\
Predictions of an iris flower's species from four measures in centimetres. PostgreSQL has committed
each prediction before its answer begins, so the history holds whatever was answered.
Every error is `application/problem+json` (RFC 9457)."""


def install_documentation(app: FastAPI) -> None:
    """Serve ``/docs`` from this server's own files, and complete ``/openapi.json``.

    All links are relative, so that they hold behind any proxy.
    """
    assets = StaticFiles(directory=str(files("fastapi_swagger") / "resources"))
    app.mount("/docs/assets", assets, name="docs-assets")

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update(problem.pop("$defs"))
    schemas["ProblemDetails"] = problem
    return document
