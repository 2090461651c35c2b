"""The service as a whole in a few seconds, for `make test-fast`."""

from pathlib import Path

from tests.e2e.conftest import Start
from tests.support.flowers import SETOSA


async def test_serve_predicts_stores_and_lists(start: Start, data_dir: Path) -> None:
    service = start(data_dir=data_dir).until_ready()
    async with service.client() as client:
        answer = (await client.post("/predict", json=SETOSA)).json()
        assert answer["prediction_label"] == "setosa"
        page = (await client.get("/predictions")).json()
    assert page["items"] == [answer | SETOSA | {"reference": None}]
    assert service.stop() == 0
