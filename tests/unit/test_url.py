import traceback
from pathlib import Path

import pytest
from tests.unit.urls import translated

from iris_api.database.url import database_url
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings

CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUbYau5vUeFbJUEwa6gdsaTKR0VUkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJYXV0aG9yaXR5MB4XDTI2MTEyNjE2MDIxNVoXDTM2MTEyMzE2
MDIxNVowFDESMBAGA1UEAwwJYXV0aG9yaXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAElMwJwS+gsqoydvW4/Ji0qOr0tM5zxbPmXpo2dbc0JHb1NV1cKAoBZyqN
rVYYbnqXeZYB7tui2H6cVSB7a1tj7qNTMFEwHQYDVR0OBBYEFKNMp6780jZYEaIX
SPA2kiwzcq/zMB8GA1UdIwQYMBaAFKNMp6780jZYEaIXSPA2kiwzcq/zMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAOpPkFslngTan9kcaT5cnlYi
60OCUMgODmuQxVOvFBn6AiA0002nAo+Q90W6F7DW5IQWCca1b1h25j+GDq5qb0cm
Tw==
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_database_url_with_any_postgresql_scheme_uses_asyncpg(scheme: str) -> None:
    url = translated(f"{scheme}://iris:hunter2@db:5433/iris")
    assert url == "postgresql+asyncpg://iris:hunter2@db:5433/iris"


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_database_url_with_sslmode_has_it_as_ssl(mode: str) -> None:
    assert translated(f"postgresql://db/iris?sslmode={mode}") == (
        f"postgresql+asyncpg://db/iris?ssl={mode}"
    )


@pytest.mark.parametrize("query", ["host=%2Frun%2Fpostgresql", "prepared_statement_cache_size=0"])
def test_database_url_with_other_parameters_keeps_them(query: str) -> None:
    assert translated(f"postgresql://db/iris?{query}") == f"postgresql+asyncpg://db/iris?{query}"


@pytest.mark.parametrize("password", ["p%40ss%2Fw%3Ard", "%25s", "%C3%A9"])
def test_database_url_with_an_escaped_password_keeps_it_escaped(password: str) -> None:
    assert f":{password}@" in translated(f"postgresql://iris:{password}@db/iris")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://iris:hunter2@db/iris",
        "sqlite:///hunter2",
        "postgresql+psycopg2://iris:hunter2@db/iris",
        "POSTGRESQL+asyncpgs://iris:hunter2@db/iris",
    ],
)
def test_database_url_of_another_database_or_driver_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL names") as error:
        translated(url)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "iris:hunter2@db/iris",
        "//iris:hunter2@db/iris",
        "postgresql://iris:hunter2@db:port/iris",
        "postgresql://iris:hunter2@db:/iris",
        "postgresql://iris:hunter2@[::1/iris",
        "postgresql://iris:hunter2#@db:x/iris",
    ],
)
def test_database_url_of_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL is not a URL") as error:
        translated(url)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "query",
    [
        "port=hunter2",
        "host=one&host=other",
        "host=one,other&port=5432",
        "host=one:5432&host=other:hunter2",
        "prepared_statement_cache_size=hunter2",
    ],
)
def test_database_url_with_an_invalid_parameter_is_refused_without_showing_it(query: str) -> None:
    with pytest.raises(ConfigurationError, match="each of several hosts needs a port") as error:
        translated(f"postgresql://db/iris?{query}")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_database_url_with_several_hosts_before_the_path_is_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match=r"host=one:5432&host=other:5432"):
        translated("postgresql://one,other/iris")


@pytest.mark.parametrize("port", ["0", "65536", "5432,65536"])
def test_database_url_with_a_port_out_of_range_is_refused(port: str) -> None:
    hosts = ",".join("h" for _ in port.split(","))
    with pytest.raises(ConfigurationError, match="not from 1 to 65535"):
        translated(f"postgresql://db/iris?host={hosts}&port={port}")


@pytest.mark.parametrize("query", ["ssl=require&ssl=disable", "sslrootcert=a&sslrootcert=b"])
def test_database_url_with_a_repeated_parameter_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match=r"more than one ssl\w*\."):
        translated(f"postgresql://db/iris?{query}")


def test_database_url_with_a_negative_cache_size_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cache_size below 0"):
        translated("postgresql://db/iris?prepared_statement_cache_size=-1")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_database_url_with_verify_and_no_root_certificate_is_refused(home: Path, mode: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"root\.crt cannot be read.* sslrootcert "
    ) as error:
        translated(f"postgresql://db/iris?sslmode={mode}")
    assert str(home) in str(error.value)


@pytest.mark.parametrize("way", ["home", "PGSSLROOTCERT"])
def test_database_url_with_verify_full_finds_the_root_certificate_as_libpq_does(
    home: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    root = home / (".postgresql/root.crt" if way == "home" else "root.crt")
    root.parent.mkdir(exist_ok=True)
    root.write_text(CERTIFICATE)
    if way != "home":
        monkeypatch.setenv(way, str(root))
    assert translated("postgresql://db/iris?sslmode=verify-full").endswith("?ssl=verify-full")


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey"])
def test_database_url_with_a_missing_tls_file_names_it(home: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"absent\.pem cannot be read.* {name} "):
        translated(f"postgresql://db/iris?{name}={home}/absent.pem")


@pytest.mark.parametrize("names", [["sslrootcert"], ["sslcert", "sslkey"]])
def test_database_url_with_an_invalid_certificate_file_is_refused(
    home: Path, names: list[str]
) -> None:
    (home / "a.pem").write_text("nothing")
    query = "&".join(f"{name}={home}/a.pem" for name in names)
    with pytest.raises(ConfigurationError, match=f"{names[0]} .*PEM"):
        translated(f"postgresql://db/iris?{query}")


def test_database_url_without_the_setting_names_iris_database_url() -> None:
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL is not set"):
        database_url(Settings())
