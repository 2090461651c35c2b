import traceback
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.unit.urls import in_dsn, rendered, translated

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
    url = f"{scheme}://iris:hunter2@db:5433/iris"
    assert rendered(url) == "postgresql+asyncpg://iris:hunter2@/iris"
    assert translated(url).address == "db:5433"


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("sslmode=disable", "disable"),
        ("sslmode=require", "require"),
        ("ssl=require", "require"),  # as SQLAlchemy has it
        ("ssl=true", "require"),  # as JDBC has it, and libpq too
    ],
)
@pytest.mark.usefixtures("home")
def test_database_url_with_sslmode_or_ssl_has_it_as_sslmode(query: str, mode: str) -> None:
    assert in_dsn(f"postgresql://db/iris?{query}") == {"sslmode": mode}


@pytest.mark.parametrize("password", ["p%40ss%2Fw%3Ard", "%25s", "%C3%A9"])
def test_database_url_with_an_escaped_password_keeps_it_escaped(password: str) -> None:
    url = f"postgresql://iris:{password}@db/iris"
    assert f":{password}@" in rendered(url)
    assert translated(url).url.password == unquote(password)


def test_database_url_with_user_password_and_dbname_as_parameters_uses_them() -> None:
    url = "postgresql://db/other?user=iris&password=p%40ss&dbname=iris"
    assert rendered(url) == "postgresql+asyncpg://iris:p%40ss@/iris"


HOSTS = {
    "db/iris": [("db", None)],
    "db:5433/iris": [("db", 5433)],
    "[::1]:5433/iris": [("::1", 5433)],
    "[::1]/iris": [("::1", None)],
    "one:5432,other:5433/iris": [("one", 5432), ("other", 5433)],
    "one,[::1]:5433,other/iris": [("one", None), ("::1", 5433), ("other", None)],
    "me:p,w@one,other/iris": [("one", None), ("other", None)],
    "me:p,w@db/iris": [("db", None)],
    "me:p,w/d?@db/iris": [("db", None)],
    "db/iris?port=&sslmode=": [("db", None)],
    "one,other/iris?port=5433": [("one", 5433), ("other", 5433)],
    "/iris?host=one,other&port=5432,5433": [("one", 5432), ("other", 5433)],
    "/iris?host=one:5432&host=other:5433": [("one", 5432), ("other", 5433)],
    "db:5433/iris?host=one,other": [("one", 5433), ("other", 5433)],
    "db/iris?host=::1": [("::1", None)],
    "/iris?host=/run/postgresql": [("/run/postgresql", None)],
    "me@/iris?host=/cloudsql/project:region:name": [("/cloudsql/project:region:name", None)],
    "me@:5433/iris?host=/tmp": [("/tmp", 5433)],  # noqa: S108, a socket's folder
    "%2Frun%2Fpostgresql/iris": [("/run/postgresql", None)],
    "/iris?port=5433": [("", 5433)],
    "/iris": [("", None)],
}


@pytest.mark.parametrize(("end", "hosts"), HOSTS.items())
@pytest.mark.usefixtures("home")
def test_database_url_with_hosts_in_any_form_of_libpq_names_them_and_their_ports(
    end: str, hosts: list[tuple[str, int | None]]
) -> None:
    found = translated(f"postgresql://{end}")
    assert found.hosts == hosts
    names, ports = zip(*hosts, strict=True)
    assert found.arguments.get("host", [""]) == list(names)
    assert found.arguments.get("port") == ([port or 5432 for port in ports] if any(ports) else None)


@pytest.mark.parametrize(
    ("end", "address"),
    [
        ("db/iris", "db:5432"),
        ("[::1]:5433/iris", "[::1]:5433"),
        ("one,other:5433/iris", "one:5432, other:5433"),
        ("/iris?host=/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
        ("/iris", "localhost:5432"),
    ],
)
@pytest.mark.usefixtures("home")
def test_database_url_address_has_each_host_and_port(end: str, address: str) -> None:
    assert translated(f"postgresql://iris:hunter2@{end}").address == address


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
    "end",
    [
        "db/iris?port=hunter2",
        "db/iris?port=0",
        "db:0/iris",
        "db/iris?port=65536",
        "one,other/iris?port=1,2,3",
        "one,,other/iris",
        "one:5432,other:hunter2/iris",
        "db/iris?host=hunter2:x",
        "db/iris?host=[hunter2]",
        "hunter2..com/iris",
        f"{'x' * 64}.com/iris",
    ],
)
@pytest.mark.usefixtures("home")
def test_database_url_with_an_invalid_host_or_port_is_refused_without_showing_it(end: str) -> None:
    with pytest.raises(ConfigurationError, match="several hosts are one:5432,other:5432") as error:
        translated(f"postgresql://{end}")
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "query", ["sslmode=require&sslmode=disable", "sslrootcert=a&sslrootcert=b"]
)
def test_database_url_with_a_repeated_parameter_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match=r"more than one ssl\w*\."):
        translated(f"postgresql://db/iris?{query}")


@pytest.mark.parametrize("size", ["-1", "hunter2"])
def test_database_url_with_an_invalid_cache_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigurationError, match="cache_size that is no whole number"):
        translated(f"postgresql://db/iris?prepared_statement_cache_size={size}")


def test_database_url_with_a_cache_size_keeps_it_for_sqlalchemy() -> None:
    found = translated("postgresql://db/iris?prepared_statement_cache_size=0")
    assert found.arguments["prepared_statement_cache_size"] == 0


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
    assert in_dsn("postgresql://db/iris?sslmode=verify-full") == {"sslmode": "verify-full"}


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
