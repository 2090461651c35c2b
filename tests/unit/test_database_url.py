import traceback

import pytest
from pydantic import SecretStr

from iris_api.database.session import database_url
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings


def translated(url: str) -> str:
    settings = Settings(database_url=SecretStr(url))
    return database_url(settings).render_as_string(hide_password=False)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_each_of_postgresqls_schemes_means_asyncpg(scheme: str) -> None:
    url = translated(f"{scheme}://iris:hunter2@db:5433/iris")
    assert url == "postgresql+asyncpg://iris:hunter2@db:5433/iris"


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_libpqs_sslmode_becomes_asyncpgs_ssl(mode: str) -> None:
    assert translated(f"postgresql://db/iris?sslmode={mode}") == (
        f"postgresql+asyncpg://db/iris?ssl={mode}"
    )


@pytest.mark.parametrize("query", ["host=%2Frun%2Fpostgresql", "prepared_statement_cache_size=0"])
def test_other_parameters_stay(query: str) -> None:
    assert translated(f"postgresql://db/iris?{query}") == f"postgresql+asyncpg://db/iris?{query}"


@pytest.mark.parametrize("password", ["p%40ss%2Fw%3Ard", "%25s", "%C3%A9"])
def test_an_escaped_password_stays_escaped(password: str) -> None:
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
def test_another_database_or_driver_is_refused(url: str) -> None:
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
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL is not a URL") as error:
        translated(url)
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_a_url_that_is_missing_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL is not set"):
        database_url(Settings())
