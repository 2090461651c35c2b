"""The OpenAPI document, and a page that shows it without scripts from other servers."""

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from iris_api.iris import DESCRIPTION
from iris_api.web.paths import path_of
from iris_api.web.problems import MEDIA_TYPE, ProblemDetails
from iris_api.web.read_route import ReadRoute

_DESCRIPTION = f"""\
{DESCRIPTION} PostgreSQL has committed each prediction before its answer begins, so
the history holds whatever was answered.
Every error is `application/problem+json` (RFC 9457), the schema `ProblemDetails`; each answer has
the header `X-Request-ID`."""
_TAGS = [
    {"name": "predict", "description": "Predict, and store each prediction."},
    {"name": "history", "description": "Read the stored predictions."},
    {"name": "model", "description": "Read what is known of the ML model."},
    {"name": "operations", "description": "Probe and measure the service."},
]
_LICENSE = {"name": "MIT", "identifier": "MIT"}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key; `iris-api keys create` makes one.",
}
_ASSETS_PATH = "/docs/assets/"
_STYLE = b"""\
<style>
.swagger-ui .response[data-code^="4"] :is(.response-controls, .model-example),
.swagger-ui .response[data-code^="5"] :is(.response-controls, .model-example) { display: none }
</style>
"""
"""Hides the errors' examples on the page: all have one form, and would be most of its height."""
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

    def get_path(self, scope: Scope) -> str:
        """The path below the mount, whether or not a proxy has stripped the root path.

        Starlette's own method finds the files only where it has not.
        """
        return path_of(scope).removeprefix(_ASSETS_PATH)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Accept-Ranges"] = "none"
        return response


def operation_id(route: APIRoute) -> str:
    """The endpoint's name in camelCase, which generated clients use: ``listPredictions``."""
    first, *others = route.name.split("_")
    return first + "".join(map(str.capitalize, others))


def install_documentation(app: FastAPI, *, needs_key: bool) -> None:
    """Serve ``/docs`` from this server's own files, and complete ``/openapi.json``.

    All links are relative, so they work behind any proxy. ``needs_key`` is whether this deployment
    requires API keys.
    """
    assets = _Assets(directory=str(files("fastapi_swagger") / "resources"))
    app.mount(_ASSETS_PATH.rstrip("/"), assets, name="docs-assets")
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
    content = bytes(page.body).replace(b"</head>", _STYLE + b"</head>")
    headers = {**_PAGE_HEADERS, "Content-Security-Policy": _content_security_policy(content)}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(content, headers=headers)

    for route in app.routes:
        if isinstance(route, (Mount, Route)) and not isinstance(route, ReadRoute):
            _name(route)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, needs_key=needs_key)
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


def _document(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
        tags=_TAGS,
        servers=[{"url": app.root_path or "/"}],
        license_info=_LICENSE,
    )
    components = document["components"]
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= problem.pop("$defs") | {"ProblemDetails": problem}
    _share_examples(document)
    _forbid_null_parameters(document)
    if needs_key:
        components["securitySchemes"] = {"bearer": _BEARER}
    else:
        for operation in _operations(document):
            operation["security"] = []
    return _with_titles_as_names(document)


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _share_examples(document: dict[str, Any]) -> None:
    """Move each problem's example to the components: most operations have the same ones."""
    shared: dict[str, Any] = {}
    for operation in _operations(document):
        for response in operation["responses"].values():
            examples = response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
            shared |= examples
            examples |= {slug: {"$ref": f"#/components/examples/{slug}"} for slug in examples}
    document["components"]["examples"] = shared


def _forbid_null_parameters(document: dict[str, Any]) -> None:
    """Take null out of the parameters: it stands for None, which is one that was left out."""
    for operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            for choice in schema.pop("anyOf", ()):
                schema |= choice if choice != {"type": "null"} else {}


def _with_titles_as_names(document: dict[str, Any]) -> dict[str, Any]:
    """Name each schema by its title. FastAPI names it by its class, which clients never see."""
    schemas = document["components"]["schemas"]
    titles = {name: schema["title"] for name, schema in schemas.items()}
    named = {titles[name]: schema for name, schema in schemas.items()}
    document["components"]["schemas"] = dict(sorted(named.items()))
    renamed: dict[str, Any] = json.loads(
        re.sub(
            r'(?<="#/components/schemas/)\w+(?=")',
            lambda name: titles[name[0]],
            json.dumps(document),
        )
    )
    return renamed
