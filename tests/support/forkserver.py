"""Starts ``iris-api`` by a fork of a process that has imported it.

A start is 2 to 4 s of imports, more under coverage, for each worker again. A forked process is a
session of its own, with its own environment, folder and files, and runs the program's ``main``. Its
workers are forked, too. Tests of what a process inherits or imports start a new interpreter.
"""

import atexit
import fcntl
import functools
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from ctypes import CDLL
from multiprocessing import util
from pathlib import Path
from typing import IO, Any

_PRELOADED = (
    "sklearn.discriminant_analysis",
    "sklearn.ensemble",
    "uvicorn.loops.uvloop",
    "iris_api.cli.keys",
    "iris_api.cli.serve",
    "iris_api.server.worker",
)
WORKER = "iris-worker"
"""What a worker calls itself to the operating system, for its command line is the server's."""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_ABOVE_ALL = 256
"""File descriptors from here on are none that a process passes on."""
_INT = struct.Struct("!i")
_MAX_REQUEST = 2**20  # bytes


class Forked:
    """A process that the fork server has started; the part of `subprocess.Popen` that tests use."""

    def __init__(self, connection: socket.socket, arguments: tuple[str, ...]) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._connection = connection
        self.pid = self._receive()

    def poll(self) -> int | None:
        """The exit code, if it has ended; minus the signal's number if one has ended it."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = self._receive()
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises `subprocess.TimeoutExpired` after so many seconds."""
        if self.returncode is None:
            select.select([self._connection], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> int:
        data = self._connection.recv(_INT.size, socket.MSG_WAITALL)
        assert len(data) == _INT.size, "the fork server has ended"
        [number] = _INT.unpack(data)
        return int(number)


def start(
    *arguments: str, env: Mapping[str, str], cwd: Path, stdout: IO[bytes], stderr: IO[bytes]
) -> Forked:
    """Run ``iris-api`` with these arguments, without waiting for its end."""
    request = {"arguments": arguments, "env": dict(env), "cwd": str(cwd)}
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(_server())
    fds = [stdout.fileno(), stderr.fileno()]
    socket.send_fds(connection, [json.dumps(request).encode()], fds)
    connection.shutdown(socket.SHUT_WR)
    return Forked(connection, arguments)


@functools.cache
def _server() -> str:
    """The path of the server's socket. It ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="iris-forkserver-")
    atexit.register(folder.cleanup)
    path = str(Path(folder.name, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            env=environment,  # a fork takes no threads along
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    atexit.register(server.wait)
    atexit.register(server.terminate)
    return path


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Fork for each request; in the process that shall run it, return the request."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _begin(connection)
        connection.close()


def _begin(connection: socket.socket) -> dict[str, Any]:
    """Fork once more, report the process and its exit code, and end; it returns the request."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, fds, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 2)
    while more := connection.recv(_MAX_REQUEST):
        data += more
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        connection.sendall(_INT.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.setsid()
    for fd, target in zip(fds, (1, 2), strict=True):
        os.dup2(fd, target)
        os.close(fd)
    connection.sendall(_INT.pack(os.getpid()))
    connection.close()
    request: dict[str, Any] = json.loads(data)
    return request


def _run(request: dict[str, Any]) -> None:
    from iris_api import __main__ as program  # noqa: PLC0415, not in the tests' own process

    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    tempfile.tempdir = None  # TMPDIR may be another
    _fork_workers()
    sys.argv = ["iris-api", *request["arguments"]]
    sys.modules["__main__"] = program  # which workers import, as from `python -m iris_api`
    program.main()


def _fork_workers() -> None:
    """Have `multiprocessing` spawn this process's children by a fork of it as it is now.

    A helper forks them, which has no threads and none of what ``main`` will make. It forks twice
    and ends in between, so that they become children of this process, which reaps orphans.
    """
    CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        _help(theirs)
    theirs.close()
    spawn = util.spawnv_passfds

    def spawn_by_fork(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        code = os.fsdecode(args[-2])
        if "spawn_main" not in code:
            return spawn(path, args, passfds)
        fds = [0, 1, 2, *passfds]
        files = resource.getrlimit(resource.RLIMIT_NOFILE)
        request = {"code": code, "fds": fds, "env": dict(os.environ), "files": files}
        socket.send_fds(ours, [json.dumps(request).encode()], fds)
        return int(_INT.unpack(ours.recv(_INT.size, socket.MSG_WAITALL))[0])

    util.spawnv_passfds = spawn_by_fork


def _help(requests: socket.socket) -> None:
    """Fork for each request; in the process that shall be the child, run it, and exit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 64)
        if not data:
            os._exit(0)
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid:
                requests.sendall(_INT.pack(pid))
                os._exit(0)
            requests.close()
            _spawned(json.loads(data), fds)
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)


def _spawned(request: dict[str, Any], fds: Sequence[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    Path("/proc/self/comm").write_text(WORKER)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE_ALL) for fd in fds]
    for fd in fds:
        os.close(fd)
    for copy, fd in zip(copies, request["fds"], strict=True):
        os.dup2(copy, fd)
        os.close(copy)
    resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["-c", "--multiprocessing-fork"]
    exec(request["code"], {"__name__": "spawned"})  # noqa: S102, the code is multiprocessing's
    sys.exit()


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    for module in _PRELOADED:
        importlib.import_module(module)
    _run(_serve(socket.socket(fileno=int(sys.argv[1]))))
