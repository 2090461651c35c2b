"""Which models are loaded, and which are refused: ``/readyz`` and ``/model`` say so."""

import json
import pickle
from pathlib import Path
from typing import Any

from httpx2 import AsyncClient
from sqlalchemy import URL
from tests.conftest import settings_for
from tests.integration.states import assert_alive, checks
from tests.support.application import assert_problem, running
from tests.support.flowers import SETOSA

from iris_api.inference.manifest import Manifest
from iris_api.model_files import MANIFEST_NAME
from iris_api.settings import Settings


async def assert_no_model(settings: Settings, words: str) -> None:
    """The service without a model: it says why, and the history is still there."""
    async with running(settings) as client:
        await assert_alive(client)
        assert await checks(client) == {"database": "ok", "schema": "ok", "model": "failed"}
        for response in [
            await client.post("/predict", json=SETOSA),
            await client.post("/predict/batch", json={"items": [SETOSA]}),
            await client.get("/model"),
        ]:
            assert words in assert_problem(response, 503, "model-unavailable")["detail"]
        assert (await client.get("/predictions")).status_code == 200


async def test_model_with_one_byte_changed_is_503(settings: Settings) -> None:
    [file] = settings.model_dir.glob("*.joblib")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    await assert_no_model(settings, "digest")


class _Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


async def test_model_with_a_replaced_file_is_503_and_not_unpickled(
    settings: Settings, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    trap = pickle.dumps(_Trap(trace))
    pickle.loads(trap)  # noqa: S301, to see that it works
    trace.unlink()
    [file] = settings.model_dir.glob("*.joblib")
    file.write_bytes(trap)
    await assert_no_model(settings, "digest")
    assert not trace.exists()


async def test_model_without_a_file_is_503_and_the_service_starts(
    database: URL, tmp_path: Path
) -> None:
    await assert_no_model(settings_for(database, tmp_path / "empty"), "`iris-api train`")


async def test_model_of_other_library_versions_is_503(settings: Settings) -> None:
    path = settings.model_dir / MANIFEST_NAME
    manifest = Manifest.model_validate_json(path.read_bytes())
    libraries = {**manifest.libraries, "scikit-learn": "0.1"}
    path.write_text(manifest.model_copy(update={"libraries": libraries}).model_dump_json())
    await assert_no_model(settings, "scikit-learn 0.1")


async def test_model_with_another_digest_than_model_sha256_is_503(settings: Settings) -> None:
    manifest = Manifest.model_validate_json((settings.model_dir / MANIFEST_NAME).read_bytes())
    async with running(settings.model_copy(update={"model_sha256": manifest.sha256})) as client:
        assert (await checks(client))["model"] == "ok"
    await assert_no_model(settings.model_copy(update={"model_sha256": "0" * 64}), "MODEL_SHA256")


async def test_model_returns_the_card_without_the_probe_rows(
    client: AsyncClient, settings: Settings
) -> None:
    manifest = json.loads((settings.model_dir / MANIFEST_NAME).read_bytes())
    card = (await client.get("/model")).json()
    assert card == {name: manifest[name] for name in card}
    assert manifest.keys() - card.keys() == {"probe_rows", "columns", "frame"}
    assert card["classes"] == ["setosa", "versicolor", "virginica"]
    assert [feature["name"] for feature in card["features"]] == list(SETOSA)
    assert all(feature["minimum"] < feature["maximum"] for feature in card["features"])
    assert card["version"] == (await client.post("/predict", json=SETOSA)).json()["model_version"]
