"""PostgreSQL's URL, as the service tells asyncpg of it."""

from pydantic import SecretStr

from iris_api.database.url import database_url
from iris_api.settings import Settings


def translated(url: str) -> str:
    settings = Settings(database_url=SecretStr(url))
    return database_url(settings).render_as_string(hide_password=False)
