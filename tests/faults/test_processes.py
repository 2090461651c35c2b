"""Processes of the service that are killed, told to end, or replaced."""

import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.faults.conftest import OpenTrial
from tests.faults.load import Answer, Client, Mix, ask_once, get, http, run
from tests.faults.nginx import Nginx
from tests.faults.processes import send
from tests.faults.trial import POOL, Trial, scaled

WORKERS = 2
SHUTDOWN_DELAY = 1


def test_a_worker_is_killed(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGKILL of a worker")
    service = trial.serve(workers=WORKERS)
    for _ in trial.rounds(50):
        workers = trial.until_all_work(service, WORKERS)  # sooner there without any load
        with trial.load(service.port, mix=Mix(pause=0)):
            trial.until_answered(100)
            killed = time.monotonic()
            send(signal.SIGKILL, [random.choice(workers)])
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port, backends=POOL * WORKERS)
    assert service.stop() == 0


def test_the_service_is_killed_and_started_again(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGKILL of the service")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(5):
            trial.until_answered(200)
            killed = time.monotonic()
            service.stop(signal.SIGKILL)
            service = trial.serve(port=service.port)
            trial.until_recovered(service.port, since=killed)
    trial.conclude(service.port)


def test_the_service_is_told_to_end(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGTERM, with stalled clients")
    timeout = scaled(8, at_least=2)  # seconds; a whole number, and 8 by default
    service = trial.serve(shutdown_timeout=timeout, shutdown_delay=SHUTDOWN_DELAY)
    for _ in trial.rounds(3):
        assert ask_once(service.port, trial.journal, trial.journal.new_request(1000)).state == "ok"
        with trial.load(service.port), stalled_clients(service.port):
            trial.until_answered(100)
            told = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            answer_of_one_that_ends(trial, service.port)
            assert service.wait() == 0
            assert time.monotonic() - told < timeout + SHUTDOWN_DELAY + 2
        service.leaves_nothing()
        service = trial.serve(
            port=service.port, shutdown_timeout=timeout, shutdown_delay=SHUTDOWN_DELAY
        )
    trial.conclude(service.port)


def answer_of_one_that_ends(trial: Trial, port: int) -> None:
    """It says that it is not ready, so that nobody new is sent to it, and it still serves."""
    while (ready := get(port, "/readyz")).status == 200:
        pass  # the signal has not arrived
    assert ready.status == 503
    answer = ask_and_look(trial, port)
    assert answer.status == 200
    assert answer.headers.get("connection") == "close"


def ask_and_look(trial: Trial, port: int) -> Answer:
    """Ask over a new connection, and return the answer itself."""
    request = trial.journal.new_request()

    async def once() -> Answer:
        client = Client(port, trial.journal)
        trial.journal.sent(request)
        outcome, answer = await client.exchange(request)
        trial.journal.ended(request, outcome)
        client.close()
        assert answer is not None, outcome
        return answer

    return run(once())


@contextmanager
def stalled_clients(port: int) -> Iterator[None]:
    """One that stops amid its headers, one amid its body, and one that reads nothing."""
    announced = {"Content-Type": "application/json", "Content-Length": "1000"}
    stalls = [
        b"POST /predict HTTP/1.1\r\nHost: ir",
        http("POST", "/predict", announced) + b'{"sepal_',
        http("GET", "/predictions?limit=1000"),
    ]
    with ExitStack() as stack:
        for stall in stalls:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(stall)
        yield


def test_replicas_are_replaced_behind_nginx(open_trial: OpenTrial) -> None:
    trial = open_trial("rolling restart behind nginx")
    replicas = [trial.start(), trial.start()]
    ports = [replica.until_ready().port for replica in replicas]
    with Nginx(trial.folder / "nginx", ports) as nginx:
        with trial.load(nginx.port, mix=Mix(key_every=1)):
            for _ in trial.rounds(3):
                for replica in list(replicas):
                    trial.until_answered(100)
                    assert replica.stop() == 0
                    replicas.remove(replica)
                    replicas.append(trial.serve(port=replica.port))
                    trial.until_recovered(replica.port, since=time.monotonic())
        verdict = trial.conclude(nginx.port, backends=2 * POOL)
        assert verdict.counts["ok"] == verdict.requests, (verdict.whys, nginx.errors[-2000:])
