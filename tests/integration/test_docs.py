"""/docs runs its own script and this server's files, and nothing else."""

import base64
import hashlib
import re

import pytest
from httpx2 import AsyncClient, Response
from tests.support.application import running

from iris_api.settings import Settings

ASSETS = ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"]


def policy_of(response: Response) -> dict[str, list[str]]:
    [header] = response.headers.get_list("Content-Security-Policy")
    directives = [directive.split() for directive in header.split(";")]
    assert len({name for name, *_ in directives}) == len(directives)
    return {name: sources for name, *sources in directives}


def scripts_of(response: Response) -> list[tuple[str, str]]:
    """The attributes and the content of each script of the page."""
    return re.findall(r"<script\b([^>]*)>(.*?)</script>", response.text, re.DOTALL | re.IGNORECASE)


def hash_of(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def test_docs_content_security_policy_allows_only_its_own_script_and_files(
    client: AsyncClient,
) -> None:
    response = await client.get("/docs")
    inline = [script for _, script in scripts_of(response) if script.strip()]
    assert len(inline) == 1
    assert policy_of(response) == {
        "default-src": ["'none'"],
        "script-src": ["'self'", *map(hash_of, inline)],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
    }


async def test_docs_has_no_script_outside_the_content_security_policy(client: AsyncClient) -> None:
    """An attribute such as onclick, or a tag that the policy's author did not see, would not be."""
    response = await client.get("/docs")
    assert (
        len(scripts_of(response)) == len(re.findall("<script", response.text, re.IGNORECASE)) == 2
    )
    for attributes, content in scripts_of(response):
        assert ('src="docs/' in attributes) != bool(content.strip())
    assert not re.search(r"<[^>]+\son\w+\s*=", response.text)
    assert "javascript:" not in response.text


async def test_docs_has_the_security_headers(client: AsyncClient) -> None:
    headers = (await client.get("/docs")).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ASSETS)
async def test_docs_assets_with_a_matching_if_none_match_is_304(
    client: AsyncClient, name: str
) -> None:
    first = await client.get(f"/docs/assets/{name}")
    assert first.status_code == 200
    again = await client.get(
        f"/docs/assets/{name}", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert again.status_code == 304


@pytest.mark.parametrize("value", ["bytes=0-9", "bytes=-1", "bytes=9999999-", "zebra", "bytes=b-a"])
async def test_docs_assets_with_a_range_is_200_with_the_whole_file(
    client: AsyncClient, value: str
) -> None:
    whole = await client.get("/docs/assets/swagger-ui.css")
    response = await client.get("/docs/assets/swagger-ui.css", headers={"Range": value})
    assert response.status_code == 200
    assert response.content == whole.content
    assert response.headers["Accept-Ranges"] == "none"


@pytest.mark.parametrize(
    "name", ["nowhere.js", "../../../../../../etc/passwd", "%2e%2e/__init__.py", "", "."]
)
async def test_docs_assets_with_an_unknown_name_is_404(client: AsyncClient, name: str) -> None:
    response = await client.get(f"/docs/assets/{name}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_docs_with_a_root_path_starts_without_a_warning_and_allows_its_script(
    settings: Settings,
) -> None:
    async with running(settings.model_copy(update={"root_path": "/iris"})) as client:
        response = await client.get("/docs")
        [inline] = [script for _, script in scripts_of(response) if script.strip()]
        assert hash_of(inline) in policy_of(response)["script-src"]


@pytest.mark.parametrize("prefix", ["", "/a/iris"], ids=["stripped", "kept"])
@pytest.mark.parametrize("name", ASSETS)
async def test_docs_assets_with_a_root_path_that_a_proxy_keeps_or_strips_are_200(
    settings: Settings, prefix: str, name: str
) -> None:
    async with running(settings.model_copy(update={"root_path": "/a/iris"})) as client:
        response = await client.get(f"{prefix}/docs/assets/{name}")
        missing = await client.get(f"{prefix}/docs/assets/nowhere.js")
    assert response.status_code == 200
    assert response.content
    assert missing.status_code == 404


@pytest.mark.parametrize("auth", ["off", "keys"])
async def test_root_with_a_root_path_redirects_to_docs(settings: Settings, auth: str) -> None:
    changes = {"root_path": "/a/iris", "auth": auth}
    async with running(settings.model_copy(update=changes)) as client:
        for path, page in [
            ("/a/iris", "/a/iris/docs"),
            ("/a/iris/", "/a/iris/docs"),
            ("/", "/docs"),  # from a proxy that takes the root path off
        ]:
            response = await client.get(path, follow_redirects=True)
            assert response.status_code == 200
            assert response.url.path == page
