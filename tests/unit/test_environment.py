"""Where settings come from: the environment, `.env`, and files of secrets."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from iris_api import environment
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings, environment_warnings, given_settings, load_settings

URL = "postgresql://iris:hunter2@db/iris"
WriteEnvFile = Callable[[str | bytes], Path]


@pytest.fixture
def write_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WriteEnvFile:
    """Writes `.env` into the current folder, which is the test's own."""
    monkeypatch.setattr(environment, "ENV_FILE", ".env")
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes) -> Path:
        path = tmp_path / ".env"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IRIS_AUHT", "IRIS_AUTH"),
        ("IRIS_POTR", "IRIS_PORT"),
        ("iris_worker", "IRIS_WORKERS"),
        ("IRIS_LOGLEVEL", "IRIS_LOG_LEVEL"),
        ("IRIS_DATABSE_URL", "IRIS_DATABASE_URL"),
        ("IRIS_DATABASE_URL_FLIE", "IRIS_DATABASE_URL_FILE"),
    ],
)
def test_environment_warnings_with_a_misspelt_variable_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    assert environment_warnings() == [f"{name} is no setting; is {meant} meant?"]


@pytest.mark.parametrize(
    "name",
    [
        *(f"IRIS_{name.upper()}" for name in Settings.model_fields),
        "iris_auth",
        "IRIS_DATABASE_URL_FILE",
        "IRIS_SERVICE_HOST",  # these are Kubernetes', of services named iris and iris-api
        "IRIS_SERVICE_PORT",
        "IRIS_SERVICE_PORT_HTTP",
        "IRIS_PORT_8000_TCP",
        "IRIS_PORT_8000_TCP_ADDR",
        "IRIS_PORT_8000_TCP_PORT",
        "IRIS_API_PORT",
        "IRIS_API_SERVICE_HOST",
        "IRIS_PUBLISHED_PORT",
        "IRIS_POSTGRES_PASSWORD",
        "IRIS_TEST_DATABASE",
    ],
)
def test_environment_warnings_with_a_known_or_foreign_variable_is_empty(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "")
    assert environment_warnings() == []


@pytest.mark.parametrize(
    "value",
    [
        "tcp://10.96.12.3:8000",
        "udp://10.96.12.3:53",
        "sctp://10.96.12.3:9",
        "tcp://[fd00:10:96::1]:8000",  # kubelet's brackets around IPv6
        "tcp://172.17.0.2:8000",  # Docker's legacy links
        "tcp://10.96.12.3:8000\n",
    ],
)
@pytest.mark.parametrize("name", ["IRIS_PORT", "iris_port"])
def test_load_settings_with_iris_port_of_a_kubernetes_service_ignores_it_and_warns(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert load_settings().port == 8000
    [sentence] = environment_warnings()
    assert sentence.startswith(f"{name} is ignored: Kubernetes")
    assert "`enableServiceLinks: false`" in sentence


@pytest.mark.parametrize(
    "value",
    ["tcp://10.96.12.3", "tcp://10.96.12.3:", "tcp://", "http://10.96.12.3:8000", "10.96.12.3:8000",
     "8000/tcp", "80 00", "eighty"],
)  # fmt: skip
def test_load_settings_with_a_malformed_iris_port_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IRIS_PORT", value)
    with pytest.raises(ConfigurationError, match="IRIS_PORT: "):
        load_settings()
    assert environment_warnings() == []


def test_load_settings_with_all_variables_of_a_kubernetes_service_has_the_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "IRIS_SERVICE_HOST": "10.96.12.3",
        "IRIS_SERVICE_PORT": "8000",
        "IRIS_SERVICE_PORT_HTTP": "8000",
        "IRIS_PORT": "tcp://10.96.12.3:8000",
        "IRIS_PORT_8000_TCP": "tcp://10.96.12.3:8000",
        "IRIS_PORT_8000_TCP_PROTO": "tcp",
        "IRIS_PORT_8000_TCP_PORT": "8000",
        "IRIS_PORT_8000_TCP_ADDR": "10.96.12.3",
        "IRIS_NAME": "/api/iris",  # Docker's
        "IRIS_ENV_IRIS_WORKERS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert len(environment_warnings()) == 1


@pytest.mark.parametrize("blanks", ["\n", "\r\n", " \t", "\r"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", URL), ("host", "127.0.0.1"), ("auth", "keys"), ("data_dir", "data"),
        ("port", "80"), ("workers", "2"), ("database_pgbouncer", "true"), ("root_path", "/iris"),
        ("log_format", "json"), ("model_sha256", "a" * 64), ("max_wait", "1.5"),
    ],
)  # fmt: skip
def test_load_settings_with_blanks_around_a_value_ignores_them(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, blanks: str
) -> None:
    monkeypatch.setenv(f"IRIS_{name.upper()}", value)
    expected = load_settings()
    monkeypatch.setenv(f"IRIS_{name.upper()}", f"{blanks}{value}{blanks}")
    assert load_settings() == expected


@pytest.mark.parametrize("name", Settings.model_fields)
def test_load_settings_with_an_empty_or_blank_value_takes_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for value in ("", " \r\n"):
        monkeypatch.setenv(f"IRIS_{name.upper()}", value)
        assert load_settings() == Settings.model_construct()


def test_load_settings_reads_the_env_file_and_prefers_the_environment(
    monkeypatch: pytest.MonkeyPatch, write_env_file: WriteEnvFile
) -> None:
    write_env_file(
        "# a comment\n\nexport IRIS_PORT=81\nIRIS_HOST=' ::1 '\niris_workers=3\n"
        f'PGPASSWORD=other\nIRIS_POSTGRES_PASSWORD=compose\nIRIS_DATABASE_URL="{URL}"\n'
    )
    monkeypatch.setenv("IRIS_PORT", "82")
    settings = load_settings()
    assert (settings.port, settings.host, settings.workers) == (82, "::1", 3)
    assert settings.database_url == SecretStr(URL)
    assert environment_warnings() == []
    assert given_settings()["port"].origin == "environment"
    assert given_settings()["host"].origin == ".env"


def test_load_settings_with_the_port_of_a_kubernetes_service_takes_the_one_of_the_env_file(
    monkeypatch: pytest.MonkeyPatch, write_env_file: WriteEnvFile
) -> None:
    write_env_file("IRIS_PORT=81\n")
    monkeypatch.setenv("IRIS_PORT", "tcp://10.96.12.3:8000")
    assert load_settings().port == 81


def test_load_settings_with_a_wrong_value_in_the_env_file_names_the_file_and_hides_the_value(
    write_env_file: WriteEnvFile,
) -> None:
    write_env_file("IRIS_WORKERS=-70007\n")
    with pytest.raises(ConfigurationError, match=r"IRIS_WORKERS in \.env: ") as error:
        load_settings()
    assert "70007" not in str(error.value)


def test_environment_warnings_with_a_misspelt_setting_in_the_env_file_names_the_file(
    write_env_file: WriteEnvFile,
) -> None:
    write_env_file("IRIS_AUHT=keys\n")
    assert environment_warnings() == ["IRIS_AUHT in .env is no setting; is IRIS_AUTH meant?"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("IRIS_PORT=81\nIRIS_HOST ::1\n", "line 2 is not NAME=VALUE"), (b"\xff\xfe", "not UTF-8")],
)
def test_load_settings_with_an_unreadable_env_file_says_why(
    write_env_file: WriteEnvFile, content: str | bytes, reason: str
) -> None:
    path = write_env_file(content)
    with pytest.raises(ConfigurationError, match=reason) as error:
        load_settings()
    assert str(path) in str(error.value)


def test_load_settings_with_a_folder_named_env_ignores_it(write_env_file: WriteEnvFile) -> None:
    path = write_env_file("")
    path.unlink()
    path.mkdir()
    assert load_settings() == Settings.model_construct()


@pytest.mark.parametrize("content", [URL, f"{URL}\n", f" {URL}\r\n"])
def test_load_settings_reads_a_secret_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "url"
    path.write_bytes(content.encode())
    monkeypatch.setenv("IRIS_DATABASE_URL_FILE", f"{path}\n")
    assert load_settings().database_url == SecretStr(URL)
    assert given_settings()["database_url"].origin == str(path)
    assert environment_warnings() == []


def test_load_settings_with_a_secret_in_the_environment_reads_no_file_of_the_env_file(
    monkeypatch: pytest.MonkeyPatch, write_env_file: WriteEnvFile
) -> None:
    write_env_file("IRIS_DATABASE_URL_FILE=absent\n")
    monkeypatch.setenv("IRIS_DATABASE_URL", URL)
    assert load_settings().database_url == SecretStr(URL)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory. Set it to"),
        (b" \n", "is empty. Write"),
        (b"\xff\xfe", "is not UTF-8. Set it to"),
    ],
)
def test_load_settings_with_an_unusable_file_of_a_secret_names_it_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("IRIS_DATABASE_URL_FILE", str(path))
    with pytest.raises(ConfigurationError, match=f"IRIS_DATABASE_URL_FILE names {path}") as error:
        load_settings()
    assert reason in str(error.value)


def test_load_settings_with_a_secret_and_its_file_both_set_says_which_to_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IRIS_DATABASE_URL", URL)
    monkeypatch.setenv("IRIS_DATABASE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(ConfigurationError, match="both set") as error:
        load_settings()
    assert "hunter2" not in str(error.value)
