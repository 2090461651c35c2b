"""What all connections of a process share; how they behave is shown by the end-to-end tests."""

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from iris_api.connections import Connections
from iris_api.observability.metrics import Metrics
from iris_api.settings import Settings

CLOSE = (b"connection", b"close")


@pytest.fixture
def connections(metrics: Metrics) -> Connections:
    return Connections(Settings(), metrics)


@pytest.fixture
def config() -> Config:
    return Config("iris_api.server:application", log_config=None)


@pytest.mark.parametrize("connects_first", [True, False])
def test_every_client_is_told_to_go_elsewhere(
    connections: Connections, config: Config, *, connects_first: bool
) -> None:
    state = ServerState()
    if connects_first:
        connections.belong_to(config, state)
    connections.close_after_answers()
    connections.belong_to(config, state)
    assert CLOSE in state.default_headers
    assert CLOSE in config.encoded_headers
