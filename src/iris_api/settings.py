"""All settings of the service: one frozen object, read once."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from iris_api import environment
from iris_api.environment import Given, variable_of
from iris_api.errors import ConfigurationError

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["auto", "console", "json"]
Auth = Literal["off", "keys"]
_ROOT_PATH = re.compile("(/[A-Za-z0-9._~-]+)*")
_WHOLE_MONTHS = re.compile("[1-9][0-9]{0,2}|1[01][0-9]{2}|1200", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+")
_DAY = 86_400
"""Seconds; PostgreSQL's own timeouts end at 24 days."""
Seconds = Annotated[float, Field(gt=0, le=_DAY, allow_inf_nan=False)]
WholeSeconds = Annotated[int, Field(ge=1, le=_DAY)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Months = Annotated[int, Field(ge=1, le=1200)]
Bytes = Annotated[int, Field(ge=1024, le=2**40)]


class Settings(BaseSettings):
    """The settings, each read from the variable ``IRIS_`` and its name in capitals.

    `iris_api.environment` reads them. docs/settings.md shows them as a table; a test compares the
    two.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL's URL. Unset: an embedded PostgreSQL in the data directory."
    )
    migration_database_url: SecretStr | None = Field(
        None,
        description="A direct URL of the role that owns the tables, for `migrate`, `partitions` "
        "and the task that makes and drops months. Unset: `IRIS_DATABASE_URL`.",
    )
    data_dir: Path = Field(
        Path(".iris"), description="The folder of the embedded database and of the model."
    )
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    port: int = Field(
        8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one."
    )
    workers: int = Field(1, ge=1, le=64, description="Server processes.")
    root_path: str = Field(
        "", description="The path under which a proxy publishes the service, such as `/iris`."
    )
    auth: Auth | None = Field(
        None,
        description="`keys`: every request but the probes and the documentation needs an API key; "
        "`off`: none does. Unset: off, but then only on a loopback address.",
    )
    cors_origins: tuple[str, ...] | None = Field(
        None,
        description="Origins of web pages that may call the service from a browser, such as "
        "`https://app.example.org`, with commas between them. `*`: all pages, which needs "
        "`IRIS_AUTH=keys`. Unset: none.",
    )
    key_cache_seconds: Seconds = Field(
        5.0, description="Seconds after which a revoked API key is refused everywhere."
    )
    rate_limit: Count | None = Field(
        None,
        description="Requests that a client may send to each worker within the window; past it: "
        "429. Unset: no limit.",
    )
    rate_limit_window: WholeSeconds = Field(
        60, description="The window of the rate limit, in seconds."
    )
    idempotency_hours: int = Field(
        24, ge=24, le=87_600, description="Hours that an `Idempotency-Key` is remembered at least."
    )
    retention: Literal["forever"] | Months = Field(
        "forever",
        description="How many whole months predictions are kept beside the current one, or "
        "`forever`; older months are dropped.",
    )
    log_level: LogLevel = Field("INFO", description="The least severe log line that is written.")
    log_format: LogFormat = Field(
        "auto", description="`json`, `console`, or `auto`: console on a terminal, else JSON."
    )
    model_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="The digest that the model file must have. Unset: the one in its manifest.",
    )
    inference_threads: int = Field(1, ge=1, le=64, description="Threads that run the model.")
    max_batch: int = Field(
        256, ge=1, le=10_000, description="Most rows in one model call, or in one commit."
    )
    max_waiting: Count = Field(
        1024, description="Most requests that wait for the model, or for a commit; past it: 503."
    )
    max_wait: Seconds = Field(
        3.0,
        description="Seconds after which a request that waits for the model, or for a commit, is "
        "refused when its turn comes: 503.",
    )
    database_groups_in_flight: int = Field(
        1, ge=1, le=64, description="Commits under way at the same time, for each worker."
    )
    max_connections: Count = Field(
        4096, description="Open connections of clients, for each worker; past it: 503."
    )
    max_in_flight: Count = Field(
        2048, description="Requests at work at the same time, for each worker; past it: 503."
    )
    max_header_bytes: Bytes = Field(
        65_536, description="The largest head of a request, in bytes; past it: 431."
    )
    max_body_bytes: Bytes = Field(
        4_194_304, description="The largest request body, in bytes; past it: 413."
    )
    max_buffered_bytes: Bytes = Field(
        67_108_864, description="Bytes of all requests' bodies that a worker holds; past it: 503."
    )
    max_batch_items: int = Field(
        10_000, ge=1, le=10_000, description="Items in one `/predict/batch`; past it: 422."
    )
    max_page_items: int = Field(
        1000, ge=1, le=1000, description="Predictions on one page of the history; past it: 422."
    )
    header_timeout: Seconds = Field(
        10.0, description="Seconds that a client may take for a request's head; past it: 408."
    )
    body_timeout: Seconds = Field(
        10.0, description="Seconds that a client may take for a request's body; past it: 408."
    )
    request_timeout: Seconds = Field(
        10.0, description="Seconds that a request may take once its head is there; past it: 503."
    )
    readiness_timeout: Seconds = Field(
        2.0, description="Seconds that `/readyz` waits for PostgreSQL."
    )
    database_pool_size: int = Field(
        8, ge=1, le=1000, description="Connections to PostgreSQL, for each worker."
    )
    database_connect_timeout: Seconds = Field(
        3.0, description="Seconds that opening a connection may take."
    )
    database_pool_timeout: Seconds = Field(
        3.0, description="Seconds that a request waits for a free connection."
    )
    database_command_timeout: Seconds = Field(
        3.0, description="Seconds that one statement may take."
    )
    database_lock_timeout: Seconds = Field(
        2.0, description="Seconds that a statement waits for a lock."
    )
    database_pgbouncer: bool = Field(
        default=False, description="Whether the URL leads to PgBouncer in transaction mode."
    )
    allow_unsafe_database: bool = Field(
        default=False,
        description="Whether to serve although `fsync`, `full_page_writes` or "
        "`synchronous_commit` is off.",
    )
    migration_timeout: Seconds = Field(
        60.0, description="Seconds that `migrate` waits for PostgreSQL, and for its turn."
    )
    keep_alive_timeout: WholeSeconds = Field(
        65, description="Seconds that an idle connection is kept open."
    )
    shutdown_delay: float = Field(
        1.0,
        ge=0,
        le=_DAY,
        allow_inf_nan=False,
        description="Seconds to keep serving after SIGTERM while not ready.",
    )
    shutdown_timeout: WholeSeconds = Field(
        8, description="Seconds that accepted requests then have to finish."
    )

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if not _ROOT_PATH.fullmatch(value):
            raise ValueError("give segments such as `/iris`, with no slash at the end, or none")
        return value

    @field_validator("retention", mode="before")
    @classmethod
    def _check_retention(cls, value: object) -> object:
        if value != "forever" and not _WHOLE_MONTHS.fullmatch(str(value)):
            raise ValueError("give `forever`, or a whole number of months from 1 to 1200")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        origins = set(value or ())
        if "*" in origins and info.data.get("auth") != "keys":
            raise ValueError(
                "`*` needs IRIS_AUTH=keys: without API keys, every web page that somebody opens "
                "could predict and read the history. Name the origins instead"
            )
        if not all(map(_ORIGIN.fullmatch, origins - {"*"})):
            raise ValueError(
                "give origins such as `https://app.example.org` or `http://localhost:3000`, in "
                "lower case, without a path or a slash at the end"
            )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take them from `given_settings`, instead of pydantic's sources; arguments win."""
        values: dict[str, Any] = {name: given.value for name, given in given_settings().items()}
        return init_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    @property
    def model_dir(self) -> Path:
        """The folder that holds the model and its manifest."""
        return self.data_dir / "model"


SECRETS = frozenset(
    name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)
)
"""Settings whose values are never shown; a file may hold them."""


def given_settings() -> dict[str, Given]:
    """The settings that are not left at their defaults, by name, before they are validated."""
    return environment.read_settings(Settings.model_fields, SECRETS)


def environment_warnings() -> list[str]:
    """A sentence for each injected or misspelt setting."""
    return environment.find_mistakes(Settings.model_fields, SECRETS)


def load_settings() -> Settings:
    """Read the settings from the environment, ``.env`` and the files of secrets.

    Raises `ConfigurationError`, which names each invalid setting, and never shows its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        given = given_settings()
        problems = [
            f"{_place_of(str(item['loc'][0]), given)}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError(
            f"Some settings are invalid. {'; '.join(problems)}. `iris-api settings` explains all."
        ) from None


def _place_of(name: str, given: Mapping[str, Given]) -> str:
    """The variable, and its file where it is not of the environment."""
    origin = given[name].origin if name in given else environment.ENVIRONMENT
    return variable_of(name) + ("" if origin == environment.ENVIRONMENT else f" in {origin}")


def export_settings(settings: Settings) -> None:
    """Set all settings in the environment, where the workers that this process starts read them."""
    environment.set_variables(
        {name: _as_text(value) for name, value in settings if value is not None}
    )


def _as_text(value: object) -> str:
    """A value as its variable has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)
