"""``python -OO``, which strips assertions and docstrings."""

from collections.abc import Callable

import pytest
from tests.support.flowers import SETOSA
from tests.support.service import Service


async def test_serve_without_docstrings_predicts_and_documents_its_problems(
    begin_interpreter: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    service = begin_interpreter()
    async with service.client() as client:
        assert (await client.post("/predict", json=SETOSA)).status_code == 200
        operation = (await client.get("/openapi.json")).json()["paths"]["/predict"]["post"]
        assert (await client.post("/predict", json={})).status_code == 422
        assert (await client.get("/docs")).status_code == 200
    assert "- `invalid-request`: Invalid request" in operation["responses"]["422"]["description"]
    assert service.stop() == 0
