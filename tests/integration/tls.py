"""TLS before a PostgreSQL that has none of its own."""

import asyncio
import shutil
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from tests.support.proxy import Proxy

IS_INSTALLED = shutil.which("openssl") is not None and ssl.OPENSSL_VERSION_INFO >= (3,)
NEEDS_OPENSSL = pytest.mark.skipif(not IS_INSTALLED, reason="OpenSSL 3 is not installed")
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


class TlsProxy(Proxy):
    """Has the host's name localhost; asks for a client's certificate, and does without."""

    def __init__(self, upstream: URL) -> None:
        super().__init__(upstream)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.clients: list[Any] = []
        """The names of those who have connected; None where they have shown no certificate."""

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(self.context)
            certificate = writer.get_extra_info("peercert")
            self.clients.append(certificate and certificate["subject"][0][0][1])
            await super()._take(reader, writer)
        writer.transport.abort()


def make_certificate(folder: Path, name: str, *options: str) -> None:
    """Write ``name.crt`` and ``name.key``."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2",
            "-subj", f"/CN={name}", *options,
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )  # fmt: skip
