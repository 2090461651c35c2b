"""nginx as ``deploy/nginx.conf`` has it, before two replicas."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from tests.support.ports import free_port
from tests.support.service import poll_until
from tests.support.service_processes import is_ready

_SHIPPED = Path(__file__).parents[2] / "deploy" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


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
        (folder / "nginx.conf").write_text(configuration(folder, self.port, upstreams))

    @property
    def errors(self) -> str:
        return (self._folder / "error.log").read_text()

    def __enter__(self) -> Self:
        log = self._folder / "error.log"
        around = f"daemon off; user root; pid {self._folder}/nginx.pid; error_log {log} warn;"
        self._process = subprocess.Popen(
            [self._program, "-c", self._folder / "nginx.conf", "-e", log, "-g", around]
        )
        try:
            poll_until(lambda: is_ready(self.port), "nginx passes on to the service")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def configuration(folder: Path, port: int, upstreams: Sequence[int]) -> str:
    """The shipped one, with these ports, and with all that nginx writes in this folder."""
    text = _SHIPPED.read_text()
    ports = {8000: port, **dict(zip((8001, 8002), upstreams, strict=True))}
    for shipped, own in ports.items():
        assert text.count(f"127.0.0.1:{shipped}") == 1
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{own}")
    paths = [f"access_log {folder}/access.log;"]
    paths += [f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY]
    assert text.count("http {") == 1
    return text.replace("http {", f"http {{\n    {' '.join(paths)}")
