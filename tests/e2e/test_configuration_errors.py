"""What a user can mend ends in one clear sentence: exit code 1, and no trace."""

import json
import socket
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.support.service import assert_one_clear_sentence, run


def test_serve_on_a_port_in_use_names_the_port(start: Start, server_url: URL) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = start(port=port, **way_to(server_url))
        assert service.wait() == 1
    assert_one_clear_sentence(service.errors, str(port), "IRIS_PORT")
    assert service.output == ""


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "nowhere.invalid"])
def test_serve_on_an_invalid_host_names_the_host(start: Start, server_url: URL, host: str) -> None:
    url = server_url.render_as_string(hide_password=False)
    service = start(host=host, database_url=url)
    assert service.wait() == 1
    assert_one_clear_sentence(service.errors, host, "IRIS_HOST")


def test_serve_with_malformed_settings_names_each_and_shows_no_value(folder: Path) -> None:
    result = run(
        folder, "serve", port="zebra", workers=0, log_level="LOUD", keep_alive_timeout="1.5"
    )
    assert result.returncode == 1
    assert_one_clear_sentence(
        result.stderr, "IRIS_PORT", "IRIS_WORKERS", "IRIS_LOG_LEVEL", "IRIS_KEEP_ALIVE_TIMEOUT"
    )
    assert "zebra" not in result.stderr
    assert "LOUD" not in result.stderr


def test_migrate_with_an_invalid_database_url_names_the_setting_without_the_password(
    folder: Path,
) -> None:
    for end in ("127.0.0.1:port/iris", "127.0.0.1/iris?port=x", "127.0.0.1/iris?host=a..b"):
        result = run(folder, "migrate", database_url=f"postgresql://iris:secret-word@{end}")
        assert result.returncode == 1
        assert_one_clear_sentence(result.stderr, "IRIS_DATABASE_URL")
        assert "secret-word" not in result.stderr


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_serve_and_migrate_with_a_missing_root_certificate_name_its_file(
    folder: Path, tmp_path: Path, command: str
) -> None:
    absent = tmp_path / "absent.crt"
    url = f"postgresql://iris@127.0.0.1/iris?sslmode=verify-full&sslrootcert={absent}"
    result = run(folder, command, database_url=url, port=0)
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, "IRIS_DATABASE_URL", str(absent), "sslrootcert")


@pytest.mark.parametrize("command", [["migrate"], ["serve"], ["keys", "list"]])
def test_migrate_serve_and_keys_with_an_unwritable_data_directory_name_it(
    folder: Path, tmp_path: Path, command: list[str]
) -> None:
    """Root may write everywhere, so a folder stands in the place of the file."""
    (tmp_path / "data" / "postgres.lock").mkdir(parents=True)
    result = run(folder, *command, data_dir=tmp_path / "data", port=0)
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, str(tmp_path / "data"), "IRIS_DATA_DIR")


def test_keys_list_without_a_database_says_unreachable_and_nothing_of_storing(
    folder: Path, tmp_path: Path
) -> None:
    result = run(folder, "keys", "list", database_url=f"postgresql:///iris?host={tmp_path}")
    assert result.returncode == 1
    reason = f"at {tmp_path}/.s.PGSQL.5432 cannot be reached: No such file or directory."
    assert_one_clear_sentence(result.stderr, reason, "IRIS_DATABASE_URL")
    assert "stored" not in result.stderr


def test_keys_list_with_an_unknown_host_names_the_host_and_the_reason(folder: Path) -> None:
    host = ".".join(["x" * 60] * 5)  # too long to ask anybody for it
    result = run(folder, "keys", "list", database_url=f"postgresql://{host}:5433/iris")
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, f"PostgreSQL at {host}:5433 cannot be reached: ")


def test_migrate_with_a_misspelt_setting_warns(folder: Path, embedded_dir: Path) -> None:
    result = run(folder, "migrate", data_dir=embedded_dir, auht="keys", service_host="::1")
    assert result.returncode == 0
    [warning] = [json.loads(line) for line in result.stderr.splitlines() if "AUHT" in line]
    assert warning["event"] == "settings_warning"
    assert warning["message"] == "IRIS_AUHT is no setting; is IRIS_AUTH meant?"
    assert warning["level"] == "warning"
    assert "IRIS_SERVICE_HOST" not in result.stderr


def test_migrate_with_the_port_of_a_kubernetes_service_warns_and_continues(
    folder: Path, embedded_dir: Path
) -> None:
    result = run(folder, "migrate", data_dir=embedded_dir, port="tcp://10.96.12.3:8000")
    assert result.returncode == 0, result.stderr
    [warning] = [json.loads(line) for line in result.stderr.splitlines() if "IRIS_PORT" in line]
    assert "`enableServiceLinks: false`" in warning["message"]
    assert warning["level"] == "warning"
