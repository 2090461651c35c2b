import errno
import selectors
import socket
import sys
from collections.abc import Iterator

import pytest

from iris_api.errors import ConfigurationError
from iris_api.server.listener import listen, turn_away
from iris_api.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux' own")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen(Settings(port=0)) as listener:
        listener.settimeout(30)
        yield listener


def test_listen_on_a_taken_port_is_a_configuration_error(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(ConfigurationError) as error:
        listen(Settings(port=port))
    assert str(error.value) == (
        f"127.0.0.1 port {port} cannot be had: Address already in use. "
        "Stop what listens there, or set IRIS_PORT to another port."
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_listen_on_an_address_of_another_machine_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\. Set IRIS_HOST to an address of this machine"):
        listen(Settings(host=host, port=0, auth="off"))


def test_listen_on_a_port_without_permission_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied (while attempting to bind)")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigurationError, match=r"denied\. Set IRIS_PORT to a port from 1024 up"):
        listen(Settings(port=80))


def test_turn_away_keeps_established_connections(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        turn_away(listener)
        client.sendall(b"before")
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"before"
            client.sendall(b"behind")
            assert server.recv(100) == b"behind"


def test_turn_away_refuses_later_connections_when_the_socket_is_closed(
    listener: socket.socket,
) -> None:
    turn_away(listener)
    with socket.socket() as client, selectors.DefaultSelector() as selector:
        client.setblocking(False)  # noqa: FBT003, the socket's own
        client.connect_ex(listener.getsockname())
        selector.register(client, selectors.EVENT_WRITE)
        assert selector.select(0.3) == []
        listener.close()
        assert selector.select(30) != []
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
