"""The service's processes: how a trial starts them, and what it asks of them beside predictions."""

import subprocess
import sys
from pathlib import Path

from tests.support.answers import Answer
from tests.support.forkserver import WORKER
from tests.support.ports import free_port
from tests.support.processes import children, command_of, name_of
from tests.support.service import Service, environment
from tests.support.wire import LostError, RefusedError, get


def start_program(program: str, folder: Path, **settings: object) -> Service:
    """As `Service.start`, with a program that calls the service's own ``main``."""
    port = int(str(settings.setdefault("port", free_port())))
    output_file = folder / f"{Path(program).stem}-{port}.out"
    with output_file.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, program, "serve"],
            env=environment(**settings),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Service(process, port, output_file, output_file)


def workers_of(service: Service) -> list[int]:
    """The processes that serve; the only one, or those that it has started."""
    spawned = [
        pid
        for pid in children(service.process.pid)
        if "spawn_main" in command_of(pid) or name_of(pid) == WORKER
    ]
    return spawned or [service.process.pid]


def is_ready(port: int) -> bool:
    """Whether ``/readyz`` is answered with 200 over a new connection."""
    try:
        return get(port, "/readyz").status == 200
    except (RefusedError, LostError):
        return False


def assert_not_ready(port: int, *words: str) -> None:
    """``/readyz`` says that the service is not, and why, in one of these words."""
    answer = get(port, "/readyz")
    assert is_not_ready(answer, *words), (answer.status, answer.body)


def is_not_ready(answer: Answer, *words: str) -> bool:
    """Whether an answer of ``/readyz`` is a 503 that gives one of these words as its reason."""
    if answer.status != 503 or "retry-after" not in answer.headers:
        return False
    detail: str = answer.json()["detail"]
    return any(word in detail for word in words)
