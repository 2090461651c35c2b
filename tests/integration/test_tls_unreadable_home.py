"""A HOME that this user may not look into, as under supervisord's `user=`: it stays root's."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.integration.tls import NEEDS_OPENSSL, TlsProxy, make_certificate
from tests.support.proxy import Proxy

IS_ROOT = os.geteuid() == 0
pytestmark = pytest.mark.skipif(
    IS_ROOT and shutil.which("setpriv") is None, reason="root may look everywhere"
)
CAPABILITIES = "-dac_override,-dac_read_search"
"""Without these, root is refused as others are."""
PREFIX = ["setpriv", f"--inh-caps={CAPABILITIES}", f"--bounding-set={CAPABILITIES}", "--"]


@pytest.fixture
def closed_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0)
    yield home
    home.chmod(0o700)


@pytest.fixture
async def tls_proxy(database: URL, tmp_path: Path) -> AsyncIterator[TlsProxy]:
    make_certificate(tmp_path, "server")
    async with TlsProxy.before(database) as proxy:
        proxy.context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
        yield proxy


async def list_keys(
    proxy: Proxy, mode: str | None, home: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a command that connects once."""
    url = proxy.url.set(query={"sslmode": mode} if mode else {})
    env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    text = url.render_as_string(hide_password=False)
    return await asyncio.to_thread(
        subprocess.run,
        [*(PREFIX if IS_ROOT else []), sys.executable, "-m", "iris_api", "keys", "list"],
        env=env | {"HOME": str(home), "IRIS_DATABASE_URL": text},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("mode", ["allow", "disable"])
async def test_keys_list_with_an_unreadable_home_connects_without_tls(
    database: URL, closed_home: Path, mode: str
) -> None:
    """With these two, asyncpg does not ask for TLS first, which the proxy would not understand."""
    async with Proxy.before(database) as proxy:
        result = await list_keys(proxy, mode, closed_home)
    assert result.returncode == 0, result.stderr
    assert ("client_certificate_not_looked_for" in result.stderr) == (mode != "disable")


@NEEDS_OPENSSL
@pytest.mark.parametrize("mode", [None, "prefer", "require"])
async def test_keys_list_with_an_unreadable_home_connects_by_tls_without_a_certificate(
    tls_proxy: TlsProxy, closed_home: Path, mode: str | None
) -> None:
    result = await list_keys(tls_proxy, mode, closed_home)
    assert result.returncode == 0, result.stderr
    assert set(tls_proxy.clients) == {None}


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_keys_list_with_an_unreadable_home_and_sslmode_verify_fails_and_names_root_crt(
    database: URL, closed_home: Path, mode: str
) -> None:
    async with Proxy.before(database) as proxy:
        result = await list_keys(proxy, mode, closed_home)
    assert result.returncode == 1
    assert f"{closed_home}/.postgresql/root.crt cannot be read: Permission denied" in result.stderr
    assert "sslrootcert" in result.stderr
