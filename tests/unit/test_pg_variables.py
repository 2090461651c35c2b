"""libpq's variables beside a URL of the user's own."""

from pathlib import Path

import pytest
from tests.unit.urls import translated

from iris_api.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGPORT", "abc"),
        ("PGPORT", "5432,5433"),
        ("PGPORT", "5432,"),
        ("PGPORT", "0"),
        ("PGPORT", "65536"),
        ("PGPORT", "-1"),
        ("PGSSLMODE", ""),
        ("PGSSLMODE", "verified"),
        ("PGSSLNEGOTIATION", "tls"),
        ("PGSSLNEGOTIATION", "direct"),  # which asyncpg does not take with sslmode=prefer
        ("PGTARGETSESSIONATTRS", "master"),
        ("PGTARGETSESSIONATTRS", "standby"),  # which could store nothing
        ("PGTARGETSESSIONATTRS", "read-only"),
        ("PGGSSLIB", "heimdal"),
        ("PGSSLMINPROTOCOLVERSION", "TLS1.2"),
        ("PGSSLMAXPROTOCOLVERSION", "SSLv3"),
    ],
)
@pytest.mark.usefixtures("home")
def test_pg_variables_with_an_invalid_value_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name} in the environment does not fit.*unset"):
        translated("postgresql://db/iris")


@pytest.mark.parametrize("value", ["a,,b", "db:port", "a..b", "[::1"])
@pytest.mark.usefixtures("home")
def test_pg_variables_with_an_invalid_pghost_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PGHOST", value)
    with pytest.raises(ConfigurationError, match=r"^PGHOST in the environment does not fit"):
        translated("postgresql:///iris")
    assert translated("postgresql://db/iris").address == "db:5432"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("postgresql://db/iris", {"PGPORT": "6543"}),
        ("postgresql://db/iris", {"PGPORT": ""}),
        ("postgresql://db:5432/iris", {"PGPORT": "abc"}),
        ("postgresql://db/iris?port=5432", {"PGPORT": "abc"}),
        ("postgresql://db/iris?sslmode=require", {"PGSSLMODE": "verified"}),
        ("postgresql://db/iris?sslmode=require", {"PGSSLNEGOTIATION": "direct"}),
        ("postgresql://db/iris", {"PGSSLNEGOTIATION": "direct", "PGSSLMODE": "require"}),
        ("postgresql://db/iris", {"PGTARGETSESSIONATTRS": "read-write"}),
        ("postgresql:///iris", {"PGHOST": "one,two", "PGPORT": "5432,5433"}),
        ("postgresql:///iris", {"PGHOST": "one:5432,[::1]:5433"}),
        ("postgresql:///iris", {"PGHOST": "/run/postgresql", "PGSSLCERT": "/nonexistent"}),
        ("postgresql://db/iris?sslmode=disable", {"PGSSLCERT": "/nonexistent"}),
        ("postgresql://db/iris?sslmode=prefer", {"PGSSLROOTCERT": "/nonexistent"}),
        ("postgresql://db/iris", {"PGSSLMAXPROTOCOLVERSION": "", "PGSSLCERT": ""}),
        ("postgresql://db/iris", {"PGUSER": "one", "PGPASSWORD": "hunter2", "PGSERVICE": "x"}),
    ],
)
@pytest.mark.usefixtures("home")
def test_pg_variables_with_valid_or_overridden_values_are_accepted(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    translated(url)


@pytest.mark.parametrize(
    ("variable", "query"),
    [
        ("PGSSLCERT", ""),
        ("PGSSLROOTCERT", "?sslmode=require"),
        ("PGSSLCRL", "?sslmode=require"),
    ],
)
def test_pg_variables_with_a_missing_tls_file_are_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, variable: str, query: str
) -> None:
    monkeypatch.setenv(variable, f"{home}/absent.pem")
    with pytest.raises(
        ConfigurationError, match=rf"absent\.pem cannot be read.* Change {variable} or unset it"
    ):
        translated(f"postgresql://db/iris{query}")


def test_pg_variables_with_verify_full_and_no_root_certificate_name_both(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    with pytest.raises(ConfigurationError, match=rf"^PGSSLMODE .* {home}/\.postgresql/root\.crt "):
        translated("postgresql://db/iris")


def test_database_url_with_an_invalid_client_certificate_in_home_names_it(home: Path) -> None:
    (home / ".postgresql").mkdir()
    certificate = home / ".postgresql" / "postgresql.crt"
    certificate.write_text("nothing")
    with pytest.raises(ConfigurationError, match=f"^{certificate} holds no certificate"):
        translated("postgresql://db/iris")
    translated("postgresql://db/iris?sslmode=disable")
