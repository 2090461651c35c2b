"""A model file that somebody has put into the data directory by hand, without a manifest."""

import json
import re
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.naive_bayes import GaussianNB
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.support.flowers import SETOSA
from tests.support.service import poll_until

from iris_api.inference import save_artifact


async def test_serve_with_a_model_file_without_a_manifest_warns_how_to_bring_it_in(
    start: Start, data_dir: Path, database: URL
) -> None:
    data = load_iris()
    path = data_dir / "model" / "model.joblib"
    joblib.dump(GaussianNB().fit(data.data, data.target), path)
    settings = {**way_to(database), "data_dir": data_dir}
    service = start(**settings).until_ready()
    async with service.client() as client:
        answer = (await client.post("/predict", json=SETOSA)).json()
    assert answer["model_version"].startswith("linear-discriminant-")
    assert service.stop() == 0
    [warning] = [line for line in service.errors.splitlines() if "model_without_manifest" in line]
    message = json.loads(warning)["message"]
    assert message.startswith(f"{path} has no manifest, so it is not served.")

    [call] = re.findall(r"iris_api\.inference\.(save_artifact\(.+?\)) with", message)
    names = {"rows": data.data, "labels": data.target_names.tolist()}
    eval(call, {"save_artifact": save_artifact, **names})  # noqa: S307, it is what an operator does
    path.unlink()
    service = start(**settings).until_ready()
    async with service.client() as client:
        answer = (await client.post("/predict", json=SETOSA)).json()
    assert answer["model_version"].startswith("custom-")
    assert service.stop() == 0
    assert "model_without_manifest" not in service.errors


async def test_serve_with_only_a_model_file_without_a_manifest_is_not_ready_and_says_so(
    start: Start, folder: Path, database: URL
) -> None:
    (folder / ".iris" / "model").mkdir(parents=True)
    (folder / ".iris" / "model" / "best.pkl").touch()
    service = start(**way_to(database), data_dir=folder / ".iris")
    poll_until(lambda: service.answers("/livez"), "the service is alive")
    async with service.client() as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    detail = response.json()["checks"]["model"]["detail"]
    assert "best.pkl has no manifest: bring it in by `save_artifact`" in detail
