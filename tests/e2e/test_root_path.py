"""A service at a path of nginx, which passes the path on as it is, or strips it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from httpx2 import Client
from sqlalchemy import URL
from tests.support.flowers import SETOSA
from tests.support.ports import free_port
from tests.support.service import poll_until, serving

PROXY_PASS = {"kept": "http://127.0.0.1:{}", "stripped": "http://127.0.0.1:{}/"}
CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location /iris/ {{ proxy_pass {proxy_pass}; }} }}
}}
"""


@pytest.fixture(scope="module", params=PROXY_PASS)
def base_url(
    request: pytest.FixtureRequest,
    service_database: URL,
    trained_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with serving(folder, service_database, data_dir=trained_model, root_path="/iris") as service:
        text = CONFIGURATION.format(
            folder=folder, port=port, proxy_pass=PROXY_PASS[request.param].format(service.port)
        )
        (folder / "nginx.conf").write_text(text)
        process = subprocess.Popen(
            [program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        )
        try:
            url = f"http://127.0.0.1:{port}/iris/"
            poll_until(lambda: (folder / "pid").exists() and answers(url), "nginx passes on")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    with Client(base_url=url) as client:
        return client.get("livez").status_code == 200


@pytest.fixture
def client(base_url: str) -> Iterator[Client]:
    with Client(base_url=base_url, follow_redirects=True) as client:
        yield client


def test_docs_behind_nginx_finds_its_files_and_its_document(client: Client, base_url: str) -> None:
    page = client.get("")
    assert page.status_code == 200
    assert str(page.url) == urljoin(base_url, "docs")
    links = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(links) >= 4
    for link in links:
        assert client.get(urljoin(str(page.url), link)).status_code == 200, link
    assert client.get("openapi.json").json()["servers"] == [{"url": "/iris"}]


def test_predict_behind_nginx_has_links_that_lead_to_the_service(
    client: Client, base_url: str
) -> None:
    answers = [client.post("predict", json=SETOSA) for _ in range(2)]
    location = urljoin(base_url, answers[0].headers["Content-Location"])
    stored = answers[0].json() | SETOSA | {"reference": None}
    assert client.get(location).json() == stored
    page = client.get("predictions", params={"limit": 1})
    link = page.links["next"]["url"]
    assert client.get(urljoin(base_url, link)).json()["items"] == [stored]
