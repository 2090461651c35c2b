"""Each parameter of a URL is taken, ignored or refused, as docs/postgresql.md says."""

import ctypes
import re
import sys
from pathlib import Path

import pytest
from tests.unit.urls import in_dsn, translated

from iris_api.database.parameters import FOR_ASYNCPG, IGNORED, REFUSED, TAKEN
from iris_api.database.session import _server_settings
from iris_api.embedded.postgres import find_binaries
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

pytestmark = pytest.mark.usefixtures("home")
PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"
ROW = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| (takes|sends|ignores|refuses) ", re.MULTILINE)


class Option(ctypes.Structure):
    """libpq's ``PQconninfoOption``."""

    _fields_ = (
        ("keyword", ctypes.c_char_p),
        ("envvar", ctypes.c_char_p),
        ("compiled", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
        ("label", ctypes.c_char_p),
        ("dispchar", ctypes.c_char_p),
        ("dispsize", ctypes.c_int),
    )


def parameters_of_libpq() -> set[str]:
    """What the libpq beside the embedded PostgreSQL says of itself."""
    file = "libpq.5.dylib" if sys.platform == "darwin" else "libpq.so.5"
    libpq = ctypes.CDLL(str(find_binaries().parent / "lib" / file))
    libpq.PQconndefaults.restype = ctypes.POINTER(Option)
    names: set[str] = set()
    for option in libpq.PQconndefaults():
        if option.keyword is None:
            return names
        names.add(option.keyword.decode())
    raise AssertionError("the list ends with an option without a name")


def test_parameters_include_each_one_of_libpq() -> None:
    names = parameters_of_libpq()
    assert {"channel_binding", "sslmode", "options"} <= names
    assert not names - TAKEN - IGNORED - REFUSED.keys()


def test_parameters_and_the_table_of_the_docs_are_the_same() -> None:
    by_verb: dict[str, list[str]] = {"takes": [], "ignores": [], "refuses": []}
    for names, verb in ROW.findall(PAGE.read_text()):
        by_verb["takes" if verb == "sends" else verb] += re.findall(r"\w+", names)
    assert {verb: sorted(names) for verb, names in by_verb.items()} == {
        "takes": sorted(TAKEN),
        "ignores": sorted(IGNORED),
        "refuses": sorted(REFUSED),
    }


def test_parameters_unknown_are_refused_by_name_without_their_values() -> None:
    with pytest.raises(ConfigurationError, match="unknown: sslmod, work_mem") as error:
        translated("postgresql://db/iris?sslmod=hunter2&work_mem=64MB")
    assert "options=-c%20name%3Dvalue" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_parameters_ignored_change_nothing(name: str) -> None:
    assert translated(f"postgresql://db/iris?{name}=1") == translated("postgresql://db/iris")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_parameters_refused_say_what_to_do(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} of IRIS_DATABASE_URL .*; .+") as error:
        translated(f"postgresql://db/iris?{name}=hunter2")
    assert "hunter2" not in str(error.value)


HARMLESS = sorted((name, value) for name, one in REFUSED.items() for value in one.harmless)


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_parameters_refused_pass_with_a_value_that_asks_for_nothing(name: str, value: str) -> None:
    assert translated(f"postgresql://db/iris?{name}={value}") == translated("postgresql://db/iris")


@pytest.mark.parametrize("name", ["gssencmode", "require_auth", "requirepeer", "sslcertmode"])
def test_parameters_that_promise_safety_are_refused_as_variables_too(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    variable = f"PG{name.upper().replace('_', '')}"
    monkeypatch.setenv(variable, "require")
    with pytest.raises(ConfigurationError, match=rf"^{variable} in the environment cannot be kept"):
        translated("postgresql://db/iris")


ASYNCPGS = {
    "passfile": "/run/secrets/pgpass",
    "krbsrvname": "postgres",
    "gsslib": "gssapi",
    "target_session_attrs": "read-write",
    "ssl_min_protocol_version": "TLSv1.3",
    "ssl_max_protocol_version": "TLSv1.3",
    "sslmode": "require",
}


@pytest.mark.parametrize(("name", "value"), ASYNCPGS.items())
def test_parameters_that_asyncpg_knows_are_in_its_dsn(name: str, value: str) -> None:
    assert name in FOR_ASYNCPG
    assert in_dsn(f"postgresql://db/iris?{name}={value}") == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sslmode", "verified"),
        ("sslnegotiation", "tls"),
        ("target_session_attrs", "standby"),
        ("target_session_attrs", "read-only"),
        ("ssl_min_protocol_version", "SSLv3"),
        ("gsslib", "heimdal"),
        ("channel_binding", "always"),
    ],
)
def test_parameters_with_an_invalid_value_are_refused_with_the_valid_ones(
    name: str, value: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of .* has to be one of "):
        translated(f"postgresql://db/iris?{name}={value}")


def test_parameters_with_direct_negotiation_need_a_strict_sslmode() -> None:
    assert in_dsn("postgresql://db/iris?sslnegotiation=direct&sslmode=require") == {
        "sslnegotiation": "direct",
        "sslmode": "require",
    }
    with pytest.raises(ConfigurationError, match=r"sslnegotiation of .* needs sslmode=require"):
        translated("postgresql://db/iris?sslnegotiation=direct")


def test_parameters_application_name_and_options_are_sent_to_the_server() -> None:
    query = "application_name=mine&options=-c%20search_path%3Diris%20endpoint%3Dep-1"
    assert translated(f"postgresql://db/iris?{query}").server_settings == {
        "application_name": "mine",
        "options": "-c search_path=iris endpoint=ep-1",
    }


@pytest.mark.parametrize(
    "options",
    [
        "-c%20statement_timeout%3D0",
        "-cstatement_timeout=0",
        "-c%20search_path%3Da%20--statement-timeout=0",
        "-c%20Statement_Timeout%20%3D%200",
    ],
)
def test_parameters_options_with_a_setting_of_the_service_name_what_to_use(options: str) -> None:
    with pytest.raises(ConfigurationError, match="Use IRIS_DATABASE_COMMAND_TIMEOUT instead"):
        translated(f"postgresql://db/iris?options={options}")


@pytest.mark.parametrize("name", sorted(_server_settings(Settings())))
def test_parameters_options_with_any_setting_that_the_service_sends_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"has {name.lower()}, which the service sets"):
        translated(f"postgresql://db/iris?options=-c%20{name}%3D1")


def test_parameters_connect_timeout_replaces_the_setting() -> None:
    assert translated("postgresql://db/iris?connect_timeout=10").arguments["timeout"] == 10
    assert translated("postgresql://db/iris").arguments["timeout"] == 3


@pytest.mark.parametrize("seconds", ["0", "-1", "1.5", "forever"])
def test_parameters_connect_timeout_without_a_bound_is_refused(seconds: str) -> None:
    with pytest.raises(ConfigurationError, match="whole number of seconds from 1 up"):
        translated(f"postgresql://db/iris?connect_timeout={seconds}")


HOSTED = "postgresql://db/iris?sslmode=require&channel_binding=require"


@pytest.mark.parametrize("url", [HOSTED, "postgresql://db/iris?sslrootcert=system"])
def test_parameters_channel_binding_and_system_demand_a_certificate_for_the_host(url: str) -> None:
    context = translated(url).arguments["ssl"]
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_parameters_channel_binding_as_a_variable_demands_a_certificate_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    assert translated("postgresql://db/iris").arguments["ssl"].check_hostname


@pytest.mark.parametrize("binding", ["disable", "prefer"])
def test_parameters_channel_binding_that_is_not_required_changes_nothing(binding: str) -> None:
    url = f"postgresql://db/iris?channel_binding={binding}"
    assert translated(url) == translated("postgresql://db/iris")


def test_parameters_channel_binding_on_a_socket_changes_nothing() -> None:
    url = "postgresql:///iris?host=/tmp"
    assert translated(f"{url}&channel_binding=require") == translated(url)


def test_parameters_sslrootcert_system_with_a_weaker_sslmode_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sslmode=verify-full"):
        translated("postgresql://db/iris?sslrootcert=system&sslmode=require")


def test_parameters_sslrootcert_system_keeps_the_tls_versions() -> None:
    url = "postgresql://db/iris?sslrootcert=system&ssl_min_protocol_version=TLSv1.3"
    assert translated(url).arguments["ssl"].minimum_version.name == "TLSv1_3"
