"""All settings of the service: one frozen object, read from the environment once."""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from iris_api.errors import ConfigurationError

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
LogFormat = Literal["auto", "console", "json"]
Auth = Literal["off", "keys"]
_ROOT_PATH = re.compile("(/[A-Za-z0-9._~-]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+")
_DEFAULT_PORT = 8000
_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
"""The value of IRIS_PORT that Kubernetes sets for a Service named ``iris``, and Docker for a link.

https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
"""
_MIN_SIMILARITY = 0.75
"""Between a misspelt name and a setting: AUHT reaches it with AUTH, API_PORT with PORT does not."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings, each read from the variable ``IRIS_`` and its name in capitals.

    docs/settings.md shows them as a table; a test compares the two.
    """

    model_config = SettingsConfigDict(
        env_prefix="IRIS_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL's URL. Unset: an embedded PostgreSQL in the data directory."
    )
    data_dir: Path = Field(
        Path(".iris"), description="The folder of the embedded database and of the model."
    )
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    port: int = Field(
        _DEFAULT_PORT, ge=0, le=65535, description="The port to listen on; 0 takes a free one."
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
    cors_origins: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None,
        description="Origins of web pages that may call the service from a browser, such as "
        "`https://app.example.org`, with commas between them. `*`: all pages, which needs "
        "`IRIS_AUTH=keys`. Unset: none.",
    )
    key_cache_seconds: Seconds = Field(
        5.0, description="Seconds after which a revoked API key is refused everywhere."
    )
    rate_limit: int | None = Field(
        None,
        ge=1,
        description="Requests that a client may send to each worker within the window; past it: "
        "429. Unset: no limit.",
    )
    rate_limit_window: int = Field(
        60, ge=1, le=86_400, description="The window of the rate limit, in seconds."
    )
    idempotency_hours: int = Field(
        24, ge=24, description="Hours that an `Idempotency-Key` is remembered at least."
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
    max_waiting: int = Field(
        1024,
        ge=1,
        description="Most requests that wait for the model, or for a commit; past it: 503.",
    )
    max_wait: Seconds = Field(
        3.0,
        description="Seconds after which a request that waits for the model, or for a commit, is "
        "refused when its turn comes: 503.",
    )
    database_groups_in_flight: int = Field(
        1, ge=1, le=64, description="Commits under way at the same time, for each worker."
    )
    max_connections: int = Field(
        4096, ge=1, description="Open connections of clients, for each worker; past it: 503."
    )
    max_in_flight: int = Field(
        2048, ge=1, description="Requests at work at the same time, for each worker; past it: 503."
    )
    max_header_bytes: int = Field(
        65_536, ge=1024, description="The largest head of a request, in bytes; past it: 431."
    )
    max_body_bytes: int = Field(
        4_194_304, ge=1024, description="The largest request body, in bytes; past it: 413."
    )
    max_buffered_bytes: int = Field(
        67_108_864,
        ge=1024,
        description="Bytes of all requests' bodies that a worker holds; past it: 503.",
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
        default=False,
        description="Whether the URL leads to PgBouncer in transaction mode.",
    )
    allow_unsafe_database: bool = Field(
        default=False,
        description="Whether to serve although `fsync`, `full_page_writes` or "
        "`synchronous_commit` is off.",
    )
    migration_timeout: Seconds = Field(
        60.0, description="Seconds that `migrate` waits for PostgreSQL, and for its turn."
    )
    keep_alive_timeout: int = Field(
        65, ge=1, description="Seconds that an idle connection is kept open."
    )
    shutdown_delay: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to keep serving after SIGTERM while not ready.",
    )
    shutdown_timeout: int = Field(
        8, ge=1, description="Seconds that accepted requests then have to finish."
    )

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_injected_port(cls, value: object) -> object:
        if isinstance(value, str) and _INJECTED_PORT.fullmatch(value):
            return _DEFAULT_PORT
        return value

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        if not _ROOT_PATH.fullmatch(value):
            raise ValueError("give segments such as `/iris`, with no slash at the end, or none")
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

    @property
    def model_dir(self) -> Path:
        """The folder that holds the model and its manifest."""
        return self.data_dir / "model"


def environment_warnings() -> list[str]:
    """A sentence for each injected or misspelt setting in the environment."""
    return [*_injected_settings(), *misspelt_settings()]


def _injected_settings() -> list[str]:
    return [
        f"{variable} is ignored: Kubernetes has set it to the address of a Service, or Docker to "
        f"that of a link, so the port is {_DEFAULT_PORT}. Set `enableServiceLinks: false` in the "
        "pod's spec, or IRIS_PORT to a number."
        for variable, value in sorted(os.environ.items())
        if variable.upper() == "IRIS_PORT" and _INJECTED_PORT.fullmatch(value)
    ]


def misspelt_settings() -> list[str]:
    """A sentence for each environment variable that looks like a misspelt setting.

    Ignores other variables with the prefix: Kubernetes sets ``IRIS_SERVICE_HOST`` for a Service
    named ``iris``.
    """
    names = [name.upper() for name in Settings.model_fields]
    prefix = "IRIS_"
    unknown = {
        variable: variable.upper().removeprefix(prefix)
        for variable in sorted(os.environ)
        if variable.upper().startswith(prefix)
    }
    return [
        f"{variable} is no setting; is {prefix}{meant} meant?"
        for variable, name in unknown.items()
        if name not in names
        for meant in get_close_matches(name, names, n=1, cutoff=_MIN_SIMILARITY)
    ]


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises `ConfigurationError`, which names each invalid variable, and never shows its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"IRIS_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError(
            f"The environment does not fit: {'; '.join(problems)}. "
            "docs/settings.md lists every setting."
        ) from None
