"""The OpenAPI document, and a page that shows it without scripts from other servers."""

import base64
import hashlib
import posixpath
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from iris_api.iris import DESCRIPTION
from iris_api.web.problems import ProblemDetails
from iris_api.web.read_route import ReadRoute

_DESCRIPTION = f"""\
{DESCRIPTION} PostgreSQL has committed each prediction before its answer begins, so
the history holds whatever was answered.
Every error is `application/problem+json` (RFC 9457)."""


_PAGE_HEADERS = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _Root(ReadRoute):
    """The root. Under a proxy's path, such as ``/iris``, it matches without the slash as well."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.path_regex = re.compile("/?$")


class _Assets(StaticFiles):
    """Static files without range requests: a page never needs a part of one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Accept-Ranges"] = "none"
        return response


def install_documentation(app: FastAPI) -> None:
    """Serve ``/docs`` from this server's own files, and complete ``/openapi.json``.

    All links are relative, so they work behind any proxy.
    """
    assets = _Assets(directory=str(files("fastapi_swagger") / "resources"))
    app.mount("/docs/assets", assets, name="docs-assets")
    app.router.route_class = ReadRoute

    async def root(request: Request) -> Response:
        last_segment = request.scope["path"].rpartition("/")[2]
        return RedirectResponse(posixpath.join(last_segment, "docs"))

    app.router.add_api_route("/", root, include_in_schema=False, route_class_override=_Root)

    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon-32x32.png",
    )
    headers = {
        **_PAGE_HEADERS,
        "Content-Security-Policy": _content_security_policy(bytes(page.body)),
    }

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page.body, headers=headers)

    for route in app.routes:
        if isinstance(route, (Mount, Route)) and not isinstance(route, ReadRoute):
            _name(route)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _name(route: Mount | Route) -> None:
    """Have Starlette's route name itself in the scope, as FastAPI's do; the metrics need it."""
    handle = route.handle

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = route
        await handle(scope, receive, send)

    route.handle = named  # type: ignore[method-assign]


def _content_security_policy(page: bytes) -> str:
    """Allow only this server's files, the page's scripts, inline styles and ``data:`` images."""
    digests = [
        base64.b64encode(hashlib.sha256(script).digest()).decode()
        for script in re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes
    )
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document["components"]["schemas"]
    schemas.update(problem.pop("$defs"))
    schemas["ProblemDetails"] = problem
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, where the deployment asks for one (`IRIS_AUTH=keys`).",
        }
    }
    return document
