"""What all connections of a process share; how they behave is shown by the end-to-end tests."""

import asyncio
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from iris_api.observability.metrics import Metrics
from iris_api.server.connections import Connections
from iris_api.server.connections.transport import JoiningTransport
from iris_api.settings import Settings

CLOSE = (b"connection", b"close")


@pytest.fixture
def connections(metrics: Metrics) -> Connections:
    return Connections(Settings(), metrics)


@pytest.fixture
def config() -> Config:
    return Config("iris_api.server.run:application", log_config=None)


@pytest.mark.parametrize("connects_first", [True, False])
def test_connections_close_after_answers_sends_connection_close_by_default(
    connections: Connections, config: Config, *, connects_first: bool
) -> None:
    state = ServerState()
    if connects_first:
        connections.belong_to(config, state)
    connections.close_after_answers()
    connections.belong_to(config, state)
    assert CLOSE in state.default_headers
    assert CLOSE in config.encoded_headers


class RecordingTransport(asyncio.Transport):
    """Notes what is handed to it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes | str] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.written.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.written[-1:] in (["closed"], ["aborted"])

    def close(self) -> None:
        self.written.append("closed")

    def abort(self) -> None:
        self.written.append("aborted")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return f"extra {name}"


async def test_joining_transport_writes_head_and_body_together_and_a_lone_head_soon() -> None:
    plain = RecordingTransport()
    joining = JoiningTransport(plain, asyncio.get_running_loop())
    joining.write(b"head ")
    assert plain.written == []
    joining.write(b"body")
    assert plain.written == [b"head body"]
    joining.write(b"head of a stream")
    await asyncio.sleep(0)
    assert plain.written[1:] == [b"head of a stream"]
    await asyncio.sleep(0)
    assert plain.written[2:] == []


async def test_joining_transport_after_abort_writes_nothing() -> None:
    plain = RecordingTransport()
    joining = JoiningTransport(plain, asyncio.get_running_loop())
    joining.write(b"head of a stream")
    joining.abort()
    await asyncio.sleep(0)
    assert plain.written == ["aborted"]


async def test_joining_transport_close_writes_pending_data_first() -> None:
    plain = RecordingTransport()
    joining = JoiningTransport(plain, asyncio.get_running_loop())
    joining.write(b"a last word")
    joining.close()
    assert plain.written == [b"a last word", "closed"]
    assert joining.is_closing()
    assert joining.get_extra_info("peername") == "extra peername"
