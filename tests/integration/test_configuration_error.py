"""What stands around the service and does not fit ends in a sentence that names the setting."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from iris_api.database.migrations import migrate
from iris_api.embedded.postgres import provide_database
from iris_api.errors import ConfigurationError
from iris_api.settings import Settings


@pytest.mark.parametrize(
    "url",
    [
        "zebra",
        "",
        "mysql://iris:secret-word@127.0.0.1/iris",
        "postgresql://iris:secret-word@127.0.0.1:port/iris",
        "postgresql://iris:secret-word@[::1/iris",
        "postgresql://iris:secret-word@127.0.0.1:99999/iris",
        "postgresql://iris:secret-word@127.0.0.1:1/iris?zebra=1",
        "postgresql://iris:secret-word@127.0.0.1:1/iris?sslmode=zebra",
        "postgresql://iris:secret-word@127.0.0.1:1/iris",
    ],
)
def test_migrate_with_an_invalid_or_unreachable_database_url_names_the_setting(url: str) -> None:
    settings = Settings(database_url=SecretStr(url), migration_timeout=0.2)
    with pytest.raises(ConfigurationError, match="IRIS_DATABASE_URL") as raised:
        migrate(settings)
    assert "secret-word" not in str(raised.value)


def test_provide_database_with_an_invalid_data_dir_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = Settings(data_dir=tmp_path / "file")
    with pytest.raises(ConfigurationError, match="IRIS_DATA_DIR"), provide_database(settings):
        pass
