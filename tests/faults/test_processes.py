"""Processes of the service that are killed, told to end, or replaced."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.faults.asking import LOST, REFUSED, UNKNOWN
from tests.faults.conftest import OpenTrial
from tests.faults.load import Client, Mix
from tests.faults.nginx import Nginx
from tests.faults.scale import scaled
from tests.faults.trial import POOL, Trial
from tests.support.answers import Answer
from tests.support.processes import send, unsent_bytes
from tests.support.service import Service, poll_until
from tests.support.wire import get, http, run

WORKERS = 2
SHUTDOWN_DELAY = 1
START_SECONDS = 20
"""What a new process may take until it serves, on a machine at work."""
PAGES = 100
"""Of some 200 kB each: more than the systems at both ends keep for one who does not read."""


def test_worker_killed_under_load_loses_no_prediction(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGKILL of a worker")
    service = trial.serve(workers=WORKERS)
    for _ in trial.rounds(50):
        workers = trial.until_all_work(service, WORKERS)
        with trial.load(service.port, mixes=[Mix(pause=0)]):
            trial.until_stored(100)
            killed = time.monotonic()
            send(signal.SIGKILL, [random.choice(workers)])
            trial.until_stored(100)
        trial.until_all_work(service, WORKERS)  # sooner there without any load
        trial.note_recovery(since=killed, within=START_SECONDS)
    trial.conclude(service.port, LOST, backends=POOL * WORKERS)
    assert service.stop() == 0


def test_service_killed_and_restarted_under_load_loses_no_prediction(open_trial: OpenTrial) -> None:
    trial = open_trial("SIGKILL of the service")
    service = trial.serve()
    with trial.load(service.port):
        for _ in trial.rounds(5):
            trial.until_stored(200)
            killed = time.monotonic()
            service.stop(signal.SIGKILL)
            service = trial.serve(port=service.port)
            trial.until_recovered(service.port, since=killed, within=START_SECONDS)
    trial.conclude(service.port, LOST, REFUSED)


def test_service_at_sigterm_with_stalled_clients_stops_in_time_and_loses_no_prediction(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("SIGTERM, with stalled clients")
    timeout = scaled(8, at_least=2)  # seconds; a whole number, and 8 by default
    bounds: dict[str, Any] = {
        "shutdown_timeout": timeout,
        "shutdown_delay": SHUTDOWN_DELAY,
        **dict.fromkeys(["header_timeout", "body_timeout", "request_timeout"], 600),
    }
    promised = timeout + SHUTDOWN_DELAY + 3  # docs/promises.md, 6
    service = trial.serve(**bounds)
    assert trial.probe(service.port, trial.journal.new_request(1000)).state == "ok"
    for _ in trial.rounds(3):
        with trial.load(service.port), stalled_clients(service) as reader:
            trial.until_stored(100)
            told = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            answer_of_one_that_ends(trial, service.port)
            assert unsent_bytes(service.port, reader) > 0
            assert service.wait() == 0
            assert time.monotonic() - told < promised
        service.leaves_nothing()
        service = trial.serve(port=service.port, **bounds)
    trial.conclude(service.port, REFUSED)


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

    async def once() -> Answer:
        client = Client(port, trial.journal)
        answer = await client.ask_and_look(trial.journal.new_request())
        client.close()
        return answer

    return run(once())


@contextmanager
def stalled_clients(service: Service) -> Iterator[int]:
    """One that stops amid its headers, one amid its body, and one that reads nothing: its port."""
    announced = {"Content-Type": "application/json", "Content-Length": "1000"}
    stalls = [
        b"POST /predict HTTP/1.1\r\nHost: ir",
        http("POST", "/predict", announced) + b'{"sepal_',
        http("GET", "/predictions?limit=1000") * PAGES,
    ]
    with ExitStack() as stack:
        for stall in stalls:
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(stall)
        reader: int = client.getsockname()[1]
        until_blocked(service, reader)
        yield reader


def until_blocked(service: Service, reader: int) -> None:
    """Return when the service gets rid of no more pages, though some are still asked for."""

    def is_blocked() -> bool:
        before = pages_answered(service)
        time.sleep(0.5)  # as long as the others, at work meanwhile, need for a hundred answers
        return before == pages_answered(service) > 0

    poll_until(is_blocked, "an answer cannot be sent")
    assert pages_answered(service) < PAGES
    assert unsent_bytes(service.port, reader) > 0


def pages_answered(service: Service) -> float:
    """Of the history, as a whole."""
    pattern = rb'^iris_http_requests_total{method="GET",route="/predictions",\S+ (\S+)$'
    found = re.findall(pattern, get(service.port, "/metrics").body, re.MULTILINE)
    return sum(map(float, found))


def test_nginx_during_a_rolling_restart_of_replicas_passes_on_no_refusal(
    open_trial: OpenTrial,
) -> None:
    trial = open_trial("rolling restart behind nginx")
    replicas = [trial.start(), trial.start()]
    ports = [replica.until_ready().port for replica in replicas]
    with Nginx(trial.folder / "nginx", ports) as nginx:
        with trial.load(nginx.port, mixes=[Mix()]):
            for _ in trial.rounds(3):
                for replica in list(replicas):
                    trial.until_stored(100)
                    assert replica.stop() == 0
                    replicas.remove(replica)
                    replicas.append(trial.serve(port=replica.port))
                    trial.until_recovered(replica.port, since=time.monotonic())
        # A connection that was not accepted yet is reset, and nginx sends no POST twice.
        trial.conclude(nginx.port, UNKNOWN, backends=2 * POOL)
