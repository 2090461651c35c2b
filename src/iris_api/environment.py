"""Where the settings come from: the environment, ``.env``, and the files of secrets.

The environment wins over ``.env``. Values are stripped; an empty one counts as unset. A secret may
be in a file: ``IRIS_DATABASE_URL_FILE`` names the one that holds ``IRIS_DATABASE_URL``.
"""

import io
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from iris_api.errors import ConfigurationError

PREFIX = "IRIS_"
ENVIRONMENT = "environment"
ENV_FILE = ".env"
"""In the current folder."""
_FILE = "_file"
_INJECTED_PORT = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
"""The value of IRIS_PORT that Kubernetes sets for a Service named ``iris``, and Docker for a link.

https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
"""
_MIN_SIMILARITY = 0.75
"""Between a misspelt name and a setting: AUHT reaches it with AUTH, API_PORT with PORT does not."""


@dataclass(frozen=True, slots=True)
class Given:
    """A setting's value as text, and its origin: ``environment``, ``.env`` or a file's path."""

    value: str
    origin: str


def variable_of(name: str) -> str:
    """The variable of a setting: ``IRIS_PORT`` of ``port``."""
    return PREFIX + name.upper()


def read_settings(names: Collection[str], secrets: Collection[str]) -> dict[str, Given]:
    """What is given of these settings, by name; ``secrets`` are those that a file may hold.

    Raises `ConfigurationError` if a file cannot be read, or a secret is given twice.
    """
    given: dict[str, Given] = {}
    for origin, variables in _origins().items():
        values = {
            name: value
            for variable, value in variables.items()
            if (name := _name_of(variable)) and value and not _is_injected(name, value)
        }
        for name in names:
            if name in given:
                continue
            if name in secrets and name + _FILE in values:
                given[name] = _read_secret(name, values, origin)
            elif name in values:
                given[name] = Given(values[name], origin)
    return given


def set_variables(values: Mapping[str, str]) -> None:
    """Set these settings in the environment, for this process and the ones that it starts."""
    for variable in list(os.environ):
        if (_name_of(variable) or "").removesuffix(_FILE) in values:
            del os.environ[variable]
    os.environ.update({variable_of(name): value for name, value in values.items()})


def find_mistakes(names: Collection[str], secrets: Collection[str]) -> list[str]:
    """A sentence for each setting that is misspelt, or that somebody else has set."""
    known = [name.upper() for name in [*names, *(name + _FILE for name in secrets)]]
    return [
        sentence
        for origin, variables in _origins().items()
        for sentence in [*_injected(variables), *_misspelt(variables, origin, known)]
    ]


def _origins() -> dict[str, dict[str, str]]:
    """The variables of each origin, the strongest first, without blanks around their values."""
    origins = {ENVIRONMENT: os.environ, ENV_FILE: _read_env_file()}
    return {
        origin: {name: value.strip() for name, value in variables.items()}
        for origin, variables in origins.items()
    }


def _name_of(variable: str) -> str | None:
    """The setting that a variable of any case would set; None without the prefix."""
    name = variable.upper()
    return name.removeprefix(PREFIX).lower() if name.startswith(PREFIX) else None


def _is_injected(name: str, value: str) -> bool:
    return name == "port" and _INJECTED_PORT.fullmatch(value) is not None


def _read_env_file() -> dict[str, str]:
    """The variables of ``.env``; none where there is no such file."""
    path = Path(ENV_FILE).absolute()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):  # a virtual environment may have the name
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {_reason_of(error)}. Let this user read it, as UTF-8 text, "
            "or start in another folder."
        ) from None
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            raise ConfigurationError(
                f"{path}: line {binding.original.line} is not NAME=VALUE. Correct or remove it."
            )
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


def _read_secret(name: str, values: Mapping[str, str], origin: str) -> Given:
    """The content of the file that holds this secret, stripped."""
    variable = variable_of(name + _FILE)
    if name in values:
        raise ConfigurationError(
            f"{variable_of(name)} and {variable} are both set ({origin}). Unset one of them."
        )
    path = values[name + _FILE]
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{variable} names {path}, which cannot be read: {_reason_of(error)}. Set it to a text "
            f"file that this user may read and that holds the value of {variable_of(name)}."
        ) from None
    if not value:
        raise ConfigurationError(
            f"{variable} names {path}, which is empty. Write the value of {variable_of(name)} into "
            "the file."
        )
    return Given(value, path)


def _reason_of(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _injected(variables: Mapping[str, str]) -> list[str]:
    return [
        f"{variable} is ignored: Kubernetes has set it to the address of a Service, or Docker to "
        "that of a link. Set `enableServiceLinks: false` in the pod's spec, or IRIS_PORT to a "
        "number."
        for variable, value in sorted(variables.items())
        if _is_injected(_name_of(variable) or "", value)
    ]


def _misspelt(variables: Mapping[str, str], origin: str, known: Collection[str]) -> list[str]:
    """A sentence for each variable that looks like a misspelt setting.

    Ignores other variables with the prefix: Kubernetes sets ``IRIS_SERVICE_HOST`` for a Service
    named ``iris``.
    """
    place = "" if origin == ENVIRONMENT else f" in {origin}"
    return [
        f"{variable}{place} is no setting; is {PREFIX}{meant} meant?"
        for variable in sorted(variables)
        if (name := (_name_of(variable) or "").upper()) and name not in known
        for meant in get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY)
    ]
