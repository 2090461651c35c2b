import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from iris_api.errors import ConfigurationError
from iris_api.server.listener import bind, listen
from iris_api.settings import Settings


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind(Settings(port=0)) as listener:
        listener.settimeout(30)
        yield listener


def test_bind_on_a_taken_port_is_a_configuration_error(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listen(listener, Settings(port=port))
    with pytest.raises(ConfigurationError) as error:
        bind(Settings(port=port))
    assert str(error.value) == (
        f"Cannot listen on 127.0.0.1 port {port}: Address already in use. "
        "Stop what listens there, or set IRIS_PORT to another port."
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_bind_on_an_address_of_another_machine_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\. Set IRIS_HOST to an address of this machine"):
        bind(Settings(host=host, port=0, auth="off"))


def test_bind_on_a_port_without_permission_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ConfigurationError, match=r"denied\. Set IRIS_PORT to a port from 1024 up"):
        bind(Settings(port=80))


def test_bind_refuses_clients_before_listen(listener: socket.socket) -> None:
    settings = Settings(port=0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname())
    listen(listener, settings)
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(b"before")
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"before"


def test_listen_on_a_port_that_another_took_meanwhile_is_a_configuration_error(
    listener: socket.socket,
) -> None:
    settings = Settings(port=listener.getsockname()[1])
    with bind(settings) as second:
        listen(listener, settings)
        with pytest.raises(ConfigurationError, match=r"Address already in use\. Stop what listens"):
            listen(second, settings)


def test_bind_waits_for_a_port_that_is_given_up(listener: socket.socket) -> None:
    settings = Settings(port=listener.getsockname()[1])
    listen(listener, settings)
    timer = threading.Timer(0.3, listener.close)
    timer.start()
    with bind(settings) as second:
        assert second.getsockname()[1] == settings.port
    timer.join()
