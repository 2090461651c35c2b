"""The image's health check, which has to be right wherever the service listens."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.support.ports import free_port
from tests.support.service import Service, poll_until

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"
NO_PROXY = "http://127.0.0.1:9"
"""Where no proxy is."""


def check(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_healthy(service: Service, host: str) -> bool:
    assert service.process.poll() is None, service.errors
    return check(IRIS_HOST=host, IRIS_PORT=str(service.port)).returncode == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "localhost"])  # noqa: S104
def test_healthcheck_of_a_ready_service_on_any_host_succeeds(
    start: Start, database: URL, data_dir: Path, host: str
) -> None:
    service = start(**way_to(database), data_dir=data_dir, host=host, auth="keys")
    poll_until(lambda: is_healthy(service, host), "the service is healthy")


def test_healthcheck_ignores_proxy_variables(begin: Callable[..., Service]) -> None:
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), NO_PROXY)
    result = check(IRIS_PORT=str(begin().port), no_proxy="", NO_PROXY="", **proxies)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_healthcheck_of_a_service_that_is_not_ready_says_why(
    start: Start, database: URL, tmp_path: Path
) -> None:
    service = start(**way_to(database), data_dir=tmp_path)
    poll_until(lambda: service.answers("/livez"), "the service is alive")
    result = check(IRIS_PORT=str(service.port))
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert "answers 503: model: " in line


@pytest.mark.parametrize("port", ["", "zebra", "tcp://10.96.12.3", "http://10.96.12.3:8000"])
def test_healthcheck_of_an_absent_service_names_host_and_port(port: str) -> None:
    port = port or str(free_port())
    result = check(IRIS_HOST="127.0.0.1", IRIS_PORT=port)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"127.0.0.1 port {port}: ")


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("127.0.0.1", "8000")),
        ({"IRIS_HOST": "", "IRIS_PORT": ""}, ("127.0.0.1", "8000")),
        ({"IRIS_HOST": "0.0.0.0", "IRIS_PORT": "80"}, ("127.0.0.1", "80")),  # noqa: S104
        ({"IRIS_HOST": "::"}, ("::1", "8000")),
        ({"IRIS_HOST": "0.0.0.0\r\n", "IRIS_PORT": " 80\n"}, ("127.0.0.1", "80")),
        ({"IRIS_HOST": " ", "IRIS_PORT": "\n"}, ("127.0.0.1", "8000")),
        ({"IRIS_PORT": "tcp://10.96.12.3:8000"}, ("127.0.0.1", "8000")),  # Kubernetes'
        ({"IRIS_PORT": "tcp://[fd00::1]:9000"}, ("127.0.0.1", "8000")),
        ({"IRIS_HOST": "iris.example"}, ("iris.example", "8000")),
    ],
)
def test_healthcheck_takes_its_address_from_the_settings(
    environment: dict[str, str], address: tuple[str, str]
) -> None:
    assert runpy.run_path(str(SCRIPT))["address_of"](environment) == address
