import os
import traceback
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr, ValidationError

from iris_api.errors import ConfigurationError
from iris_api.settings import Settings, export_settings, load_settings

WRONG = {
    "IRIS_MAX_BATCH": "-70007",
    "IRIS_MAX_WAITING": "n0t-this",
    "IRIS_MAX_WAIT": "-70007",
    "IRIS_DATABASE_GROUPS_IN_FLIGHT": "-70007",
    "IRIS_PORT": "70007",
    "IRIS_ROOT_PATH": "n0t-this",
    "IRIS_WORKERS": "n0t-this",
    "IRIS_LOG_LEVEL": "n0t-this",
    "IRIS_LOG_FORMAT": "n0t-this",
    "IRIS_MODEL_SHA256": "n0t-this",
    "IRIS_INFERENCE_THREADS": "-70007",
    "IRIS_AUTH": "n0t-this",
    "IRIS_CORS_ORIGINS": "n0t-this",
    "IRIS_KEY_CACHE_SECONDS": "-70007",
    "IRIS_RATE_LIMIT": "-70007",
    "IRIS_RATE_LIMIT_WINDOW": "7.7",
    "IRIS_IDEMPOTENCY_HOURS": "-70007",
    "IRIS_RETENTION": "-70007",
    "IRIS_MAX_CONNECTIONS": "-70007",
    "IRIS_MAX_IN_FLIGHT": "n0t-this",
    "IRIS_MAX_HEADER_BYTES": "77",
    "IRIS_MAX_BODY_BYTES": "77",
    "IRIS_MAX_BUFFERED_BYTES": "77",
    "IRIS_MAX_BATCH_ITEMS": "70007",
    "IRIS_MAX_PAGE_ITEMS": "70007",
    "IRIS_HEADER_TIMEOUT": "nan",
    "IRIS_BODY_TIMEOUT": "inf",
    "IRIS_REQUEST_TIMEOUT": "-70007",
    "IRIS_READINESS_TIMEOUT": "n0t-this",
    "IRIS_DATABASE_PGBOUNCER": "n0t-this",
    "IRIS_ALLOW_UNSAFE_DATABASE": "n0t-this",
    "IRIS_SHUTDOWN_DELAY": "-70007",
    "IRIS_DATABASE_POOL_SIZE": "70007",
    "IRIS_DATABASE_CONNECT_TIMEOUT": "-70007",
    "IRIS_DATABASE_POOL_TIMEOUT": "nan",
    "IRIS_DATABASE_COMMAND_TIMEOUT": "inf",
    "IRIS_DATABASE_LOCK_TIMEOUT": "n0t-this",
    "IRIS_MIGRATION_TIMEOUT": "-70007",
    "IRIS_KEEP_ALIVE_TIMEOUT": "7.7",
    "IRIS_SHUTDOWN_TIMEOUT": "n0t-this",
}


NUMBERS = [
    name
    for name, field in Settings.model_fields.items()
    if {int, float} & {field.annotation, *get_args(field.annotation)}
]
SECONDS = [name for name in NUMBERS if name.endswith(("timeout", "_seconds", "_wait", "_delay"))]


def refusal(error: ConfigurationError) -> str:
    """All that a log would show of the error."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(("name", "value"), WRONG.items())
def test_load_settings_with_a_wrong_variable_names_it_and_hides_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name}: ") as error:
        load_settings()
    assert not value or value not in refusal(error.value)


def test_load_settings_with_several_wrong_variables_names_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in WRONG.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IRIS_DATABASE_URL", "postgresql://iris:hunter2@db/iris")
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    assert all(name in str(error.value) for name in WRONG)
    assert "hunter2" not in refusal(error.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_load_settings_with_a_huge_number_names_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A huge one overflows somewhere: in PostgreSQL's timeouts, in a date, in a limit of files."""
    monkeypatch.setenv(f"IRIS_{name.upper()}", "1" + "0" * 30)
    with pytest.raises(ConfigurationError, match=f"IRIS_{name.upper()}: .*less than or equal"):
        load_settings()


@pytest.mark.parametrize("name", SECONDS)
def test_load_settings_with_milliseconds_for_seconds_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"IRIS_{name.upper()}", "3000000")
    with pytest.raises(ConfigurationError, match=f"IRIS_{name.upper()}: "):
        load_settings()


def test_load_settings_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_PORT", "0")
    monkeypatch.setenv("IRIS_DATA_DIR", "somewhere")
    monkeypatch.setenv("IRIS_MODEL_SHA256", "a" * 64)
    monkeypatch.setenv("IRIS_DATABASE_LOCK_TIMEOUT", "0.5")
    monkeypatch.setenv("IRIS_DATABASE_URL", "postgresql://iris:hunter2@db/iris")
    settings = load_settings()
    assert settings.port == 0
    assert settings.model_dir == Path("somewhere/model")
    assert settings.model_sha256 == "a" * 64
    assert settings.database_lock_timeout == 0.5
    assert settings.database_url == SecretStr("postgresql://iris:hunter2@db/iris")


def test_load_settings_by_default_listens_on_localhost_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.data_dir, settings.log_level) == (Path(".iris"), "INFO")
    assert settings.database_url is None
    assert settings.model_sha256 is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]  # mypy knows it too


def test_settings_with_an_unknown_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings.model_validate({"prot": 8000})


def test_settings_do_not_show_the_password() -> None:
    settings = Settings(database_url=SecretStr("postgresql://iris:hunter2@db/iris"))
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump_json()}"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_settings_have_a_description_for_each_field(name: str) -> None:
    assert Settings.model_fields[name].description


@pytest.mark.parametrize("value", ["/", "/iris/", "iris", "//iris", "/iris//v1", "/iris?", "/ i"])
def test_load_settings_with_an_invalid_root_path_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IRIS_ROOT_PATH", value)
    with pytest.raises(ConfigurationError, match=r"IRIS_ROOT_PATH: .*slash at the end"):
        load_settings()


@pytest.mark.parametrize("value", ["/iris", "/iris/v1.0", "/~a_b-c"])
def test_load_settings_with_a_root_path_of_any_number_of_segments_accepts_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IRIS_ROOT_PATH", value)
    assert load_settings().root_path == value


@pytest.mark.parametrize(
    ("value", "origins"),
    [
        ("https://app.example.org", ("https://app.example.org",)),
        ("http://localhost:3000, http://[::1]", ("http://localhost:3000", "http://[::1]")),
        ("", None),
    ],
)
def test_load_settings_with_cors_origins_splits_them_at_commas(
    monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("IRIS_CORS_ORIGINS", value)
    assert load_settings().cors_origins == origins


@pytest.mark.parametrize(
    "value",
    [
        "app.example.org",
        "https://app.example.org/",
        "https://App.example.org",
        "https://*.example.org",
        "https://a.example.org https://b.example.org",
        "https://a.example.org,",
        "null",
    ],
)
def test_load_settings_with_an_invalid_cors_origin_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IRIS_CORS_ORIGINS", value)
    with pytest.raises(ConfigurationError, match=r"IRIS_CORS_ORIGINS: .*give origins such as"):
        load_settings()


def test_load_settings_with_any_cors_origin_needs_api_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRIS_CORS_ORIGINS", "*")
    for auth in ("", "off"):
        monkeypatch.setenv("IRIS_AUTH", auth)
        with pytest.raises(ConfigurationError, match="`\\*` needs IRIS_AUTH=keys"):
            load_settings()
    monkeypatch.setenv("IRIS_AUTH", "keys")
    assert load_settings().cors_origins == ("*",)


@pytest.mark.parametrize(
    ("value", "retention"), [("forever", "forever"), ("1", 1), ("12", 12), ("1200", 1200)]
)
def test_load_settings_with_retention_takes_forever_or_months(
    monkeypatch: pytest.MonkeyPatch, value: str, retention: int | str
) -> None:
    assert load_settings().retention == "forever"
    monkeypatch.setenv("IRIS_RETENTION", value)
    assert load_settings().retention == retention


@pytest.mark.parametrize("value", ["0", "1201", "1.5", "never", "12 months", "1e2"])
def test_load_settings_with_an_invalid_retention_says_what_is_valid(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IRIS_RETENTION", value)
    with pytest.raises(ConfigurationError, match=r"IRIS_RETENTION: .*give `forever`, or a whole"):
        load_settings()


def test_load_settings_reads_the_migration_database_url_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("postgresql://owner:hunter2@db/iris\n")
    monkeypatch.setenv("IRIS_MIGRATION_DATABASE_URL_FILE", str(tmp_path / "url"))
    settings = load_settings()
    assert settings.migration_database_url == SecretStr("postgresql://owner:hunter2@db/iris")
    assert "hunter2" not in f"{settings!r}"


def test_export_settings_lets_another_process_load_equal_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text("postgresql://iris:hunter2@db/iris")
    monkeypatch.setenv("IRIS_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("iris_workers", "3")
    settings = load_settings().model_copy(update={"port": 1, "allow_unsafe_database": True})
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the test's own, put back after it
    export_settings(settings)
    (tmp_path / "url").unlink()
    assert load_settings() == settings
