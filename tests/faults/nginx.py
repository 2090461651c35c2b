"""nginx before two replicas, with a configuration of the test's own."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from tests.e2e.service import free_port, poll_until
from tests.faults.trial import is_ready

_CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream iris {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://iris;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # A request may be sent again, for each has an Idempotency-Key.
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""


class Nginx:
    """Runs for the length of the block."""

    def __init__(self, folder: Path, upstreams: Sequence[int]) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            pytest.skip("nginx is not installed")
        self.port = free_port()
        self._program = program
        self._folder = folder
        self._folder.mkdir()
        # max_fails=0: a replica that is back is asked again at once.
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in upstreams)
        text = _CONFIGURATION.format(folder=folder, port=self.port, servers=servers)
        (folder / "nginx.conf").write_text(text)

    @property
    def errors(self) -> str:
        return (self._folder / "error.log").read_text()

    def __enter__(self) -> Self:
        configuration = str(self._folder / "nginx.conf")
        self._process = subprocess.Popen(
            [self._program, "-p", self._folder, "-c", configuration, "-e", "error.log"]
        )
        poll_until(lambda: is_ready(self.port), "nginx passes on to the service")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
