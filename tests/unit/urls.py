"""PostgreSQL's URL, as the service tells SQLAlchemy and asyncpg of it."""

from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from iris_api.database.url import DatabaseUrl, database_url
from iris_api.settings import Settings


def translated(url: str) -> DatabaseUrl:
    return database_url(Settings(database_url=SecretStr(url)))


def rendered(url: str) -> str:
    return translated(url).url.render_as_string(hide_password=False)


def in_dsn(url: str) -> dict[str, str]:
    """The parameters that asyncpg gets by its DSN."""
    return dict(parse_qsl(urlsplit(translated(url).arguments.get("dsn", "")).query))
