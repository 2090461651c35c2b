"""TLS to PostgreSQL: what `sslmode` and the files beside it in the URL ask for.

The wheel's PostgreSQL was built without TLS, so a proxy before it speaks that in its place.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.integration.states import checks
from tests.integration.tls import NEEDS_OPENSSL, SSL_REQUEST, TlsProxy, make_certificate
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
    leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
    signed = ("-CA", "authority.crt", "-CAkey", "authority.key", *leaf)
    signs = ("-addext", "keyUsage=critical,keyCertSign")  # Python 3.13 asks for it
    make_certificate(folder, "authority", *signs)
    make_certificate(folder, "stranger", *signs)
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


HOSTED = {"sslmode": "require", "channel_binding": "require"}
"""As hosted databases hand it out."""


@pytest.mark.parametrize("query", [HOSTED, {"sslrootcert": "system"}])
async def test_migrate_and_predict_with_an_authority_of_the_system_succeed(
    proxy: TlsProxy,
    certificates: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, str],
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.crt"))  # OpenSSL's variable
    own = settings_with(proxy, data_dir, "localhost", **query)
    assert await asyncio.to_thread(migrate, own) == head_revision()
    async with running(own) as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
    elsewhere = settings_with(proxy, data_dir, "127.0.0.1", **query)  # not the certificate's name
    with pytest.raises(ConfigurationError, match="certificate is not one to trust"):
        await asyncio.to_thread(migrate, elsewhere)


async def test_migrate_with_channel_binding_and_an_unknown_authority_names_both_ways_out(
    proxy: TlsProxy, data_dir: Path
) -> None:
    """A server between could relay the password's proof: only the certificate tells them apart."""
    own = settings_with(proxy, data_dir, "localhost", **HOSTED)
    with pytest.raises(ConfigurationError, match=r"certificate .*sslrootcert.*channel_binding"):
        await asyncio.to_thread(migrate, own)


async def test_migrate_with_sslmode_require_and_a_server_without_tls_fails_without_waiting(
    data_dir: Path,
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(SSL_REQUEST))
        writer.write(b"N")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = f"postgresql://iris@127.0.0.1:{port}/iris?sslmode=require"
        values = {"database_url": text, "data_dir": data_dir, "migration_timeout": 3600}
        own = Settings.model_validate(values)
        with pytest.raises(ConfigurationError, match="takes no TLS, which sslmode asks for"):
            await asyncio.to_thread(migrate, own)


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
