"""TLS to PostgreSQL: what `sslmode` and the files beside it in the URL ask for.

The wheel's PostgreSQL was built without TLS, so a proxy before it speaks that in its place.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.integration.states import checks
from tests.integration.tls import NEEDS_OPENSSL, TlsProxy, make_certificate
from tests.support.application import assert_problem, running
from tests.support.flowers import SETOSA
from tests.support.proxy import Proxy

from iris_api.database.migrations import head_revision, migrate
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

pytestmark = NEEDS_OPENSSL


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority's certificate, and those of it for server and client; and a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    signed = ("-CA", "authority.crt", "-CAkey", "authority.key")
    make_certificate(folder, "authority")
    make_certificate(folder, "stranger")
    make_certificate(folder, "server", *signed, "-addext", "subjectAltName=DNS:localhost")
    make_certificate(folder, "client", *signed)
    return folder


@pytest.fixture
async def proxy(database: URL, certificates: Path) -> AsyncIterator[TlsProxy]:
    async with TlsProxy.before(database) as proxy:
        proxy.context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        proxy.context.load_verify_locations(certificates / "authority.crt")
        yield proxy


def settings_with(proxy: Proxy, data_dir: Path, host: str, **query: object) -> Settings:
    url = proxy.url.set(host=host, query={name: str(value) for name, value in query.items()})
    text = url.render_as_string(hide_password=False)
    return Settings.model_validate({"database_url": text, "data_dir": data_dir})


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("localhost", {"sslmode": "verify-full"}),
        ("127.0.0.1", {"sslmode": "verify-ca"}),
        ("127.0.0.1", {"sslmode": "require"}),
        ("127.0.0.1", {}),
    ],
)
async def test_migrate_and_predict_with_a_trusted_server_certificate_succeed(
    proxy: TlsProxy, certificates: Path, data_dir: Path, host: str, query: dict[str, str]
) -> None:
    root = certificates / "authority.crt"
    own = settings_with(proxy, data_dir, host, **query, sslrootcert=root)
    assert await asyncio.to_thread(migrate, own) == head_revision()
    async with running(own) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert set(proxy.clients) == {None}


async def test_predict_with_sslcert_sends_its_client_certificate(
    proxy: TlsProxy, certificates: Path, data_dir: Path
) -> None:
    own = settings_with(
        proxy,
        data_dir,
        "localhost",
        sslmode="verify-full",
        sslrootcert=certificates / "authority.crt",
        sslcert=certificates / "client.crt",
        sslkey=certificates / "client.key",
    )
    async with running(own) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    assert set(proxy.clients) == {"client"}


@pytest.mark.parametrize(
    ("host", "mode", "root"),
    [
        ("127.0.0.1", "verify-full", "authority.crt"),  # it is not that name's certificate
        ("localhost", "verify-ca", "stranger.crt"),
        ("localhost", "require", "stranger.crt"),  # given a root, libpq verifies by it too
    ],
)
async def test_migrate_and_predict_with_an_untrusted_server_certificate_fail(
    proxy: TlsProxy, certificates: Path, data_dir: Path, host: str, mode: str, root: str
) -> None:
    own = settings_with(proxy, data_dir, host, sslmode=mode, sslrootcert=certificates / root)
    with pytest.raises(ConfigurationError, match="certificate is not one to trust"):
        await asyncio.to_thread(migrate, own)
    async with running(own) as client:
        response = await client.post("/predict", json=SETOSA)
        body = assert_problem(response, 503, "database-unavailable")
        assert "sslrootcert" in body["detail"]
        assert (await checks(client))["database"] == "failed"
