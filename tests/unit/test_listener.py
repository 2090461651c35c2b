import errno
import socket
import threading
from collections.abc import Iterator

import pytest

from iris_api.errors import ConfigurationError
from iris_api.server.listener import listen
from iris_api.settings import Settings


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
        f"Cannot listen on 127.0.0.1 port {port}: Address already in use. "
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


def test_listen_waits_for_a_port_that_is_given_up(listener: socket.socket) -> None:
    settings = Settings(port=listener.getsockname()[1])
    timer = threading.Timer(0.3, listener.close)
    timer.start()
    with listen(settings) as second:
        assert second.getsockname()[1] == settings.port
    timer.join()
