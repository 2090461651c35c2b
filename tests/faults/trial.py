"""One fault: its services, its journal, its verdict, its line in the table."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.service import Service, environment, free_port, poll_until
from tests.faults.journal import Journal, Outcome, Verdict
from tests.faults.load import (
    NO_RETRY_AFTER,
    PATIENCE,
    Behaviour,
    Crowd,
    LostError,
    Mix,
    RefusedError,
    ask_all,
    ask_once,
    asking,
    get,
)
from tests.faults.postgres import Postgres
from tests.faults.processes import children, command_of, is_connected_to
from tests.faults.report import Line

SCALE = float(os.environ.get("FAULTS_SCALE", "1"))
_CLIENTS = 16
_RECOVERY_PATIENCE = 60.0
_BACKENDS_PATIENCE = 2.0  # seconds after a storm
POOL = 8


def seconds(number: float, *, at_least: float) -> float:
    """So long a duration, scaled."""
    return max(at_least, number * SCALE)


def scaled(number: int, *, at_least: int) -> int:
    """So many, scaled."""
    return max(at_least, round(number * SCALE))


class Trial:
    """Everything that one test needs to do harm and to count the damage."""

    def __init__(
        self, fault: str, postgres: Postgres, folder: Path, model: Path, lines: list[Line]
    ) -> None:
        self.fault = fault
        self.postgres = postgres
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.services: list[Service] = []
        self.times = 0
        self.recoveries: list[float] = []
        self._model = model
        self._lines = lines
        self._concluded = False

    def go_on(self, fault: str) -> None:
        """Begin another fault, with the servers of this one."""
        assert self._concluded
        self.fault = fault
        self.journal = self.journal.next_page()
        self.times = 0
        self.recoveries = []
        self._concluded = False

    def serve(
        self, database_port: int | None = None, program: str | None = None, **settings: object
    ) -> Service:
        """Start a service, behind a proxy's port perhaps, and wait until it is ready."""
        return self.start(database_port, program, **settings).until_ready()

    def start(
        self, database_port: int | None = None, program: str | None = None, **settings: object
    ) -> Service:
        """Start a service, or another program that serves as it does."""
        url = self.postgres.url(database_port).render_as_string(hide_password=False)
        defaults = {"database_url": url, "data_dir": self._model, "log_level": "WARNING"}
        settings = {**defaults, **settings}
        if program is None:
            service = Service.start(self.folder, **settings)
        else:
            service = _start_program(program, self.folder, **settings)
        self.services.append(service)
        return service

    def rounds(self, number: int, *, at_least: int = 1) -> Iterator[None]:
        """So many repetitions, scaled, and counted for the table."""
        for _ in range(scaled(number, at_least=at_least)):
            self.times += 1
            yield

    @contextmanager
    def load(
        self,
        *ports: int,
        mix: Mix | None = None,
        clients: int = _CLIENTS,
        beside: Sequence[Behaviour] = (),
    ) -> Iterator[None]:
        """Clients at work for the length of the block, which begins at the first answers."""
        behaviours = [
            asking(ports[number % len(ports)], self.journal, mix or Mix())
            for number in range(clients)
        ]
        with Crowd([*behaviours, *beside]):
            self.until_answered(clients)
            yield

    def until_answered(self, more: int) -> None:
        """Return when so many more requests have an outcome."""
        wanted = self.journal.answered + more
        poll_until(lambda: self.journal.answered >= wanted, f"{more} more requests are answered")

    def until_recovered(self, *ports: int, since: float) -> float:
        """Return, and note, when each port predicts again and says that it is ready."""
        for port in ports:
            while not (self._probe(port).state == "ok" and is_ready(port)):
                waited = time.monotonic() - since
                assert waited < _RECOVERY_PATIENCE, f"no recovery in {waited:.0f} s"
                time.sleep(0.02)
        self.recoveries.append(time.monotonic() - since)
        return self.recoveries[-1]

    def _probe(self, port: int) -> Outcome:
        return ask_once(port, self.journal, patience=PATIENCE)

    def until_all_work(self, service: Service, number: int) -> list[int]:
        """Return the workers, when so many of them run and have begun to use the database."""

        def working() -> list[int]:
            self._probe(service.port)
            port = self.postgres.port
            return [pid for pid in workers_of(service) if is_connected_to(pid, port)]

        poll_until(lambda: len(working()) == number, f"{number} workers serve")
        return working()

    def until_few_backends(self, at_most: int) -> None:
        """The service has given back, or has lost, what is over its pools."""
        deadline = time.monotonic() + _BACKENDS_PATIENCE
        while (found := len(self.postgres.backends())) > at_most:
            assert time.monotonic() < deadline, f"{found} connections are left, not {at_most}"
            time.sleep(0.05)

    def conclude(self, port: int, *, backends: int = POOL) -> Verdict:
        """Settle, write the line, then hold the promise against what was found.

        Returns the verdict over what was found before unknown outcomes were settled.
        """
        self.until_few_backends(backends)
        before = self.judge()
        self._settle(port, before)
        self.report(before).assert_promise_held()
        assert before.counts["ok"] > 0
        assert not [why for why in before.whys if NO_RETRY_AFTER in why], before.whys
        return before

    def _settle(self, port: int, verdict: Verdict) -> None:
        """Do as a client does that holds a key: ask the same again."""
        outcomes = ask_all(port, self.journal, verdict.unsettled)
        for request, outcome in zip(verdict.unsettled, outcomes, strict=True):
            assert outcome.state == "ok", f"{request} was unknown, and then {outcome}"

    def report(self, before: Verdict | None = None) -> Verdict:
        """Judge, and write the line; outcomes are counted as they were ``before`` any settling."""
        self._concluded = True
        verdict = self.judge()
        before = before or verdict
        self._lines.append(
            Line(
                fault=self.fault,
                times=self.times,
                requests=before.requests,
                ok=before.counts["ok"],
                fail=before.counts["fail"],
                unknown=before.counts["unknown"],
                lost=len(verdict.lost),
                double=len(verdict.double),
                ghost=len(verdict.ghost),
                worst=before.worst,
                recovery=max(self.recoveries, default=None),
                whys=before.whys,
            )
        )
        return verdict

    def judge(self) -> Verdict:
        """Hold the journal against the table."""
        return self.journal.judge(self.postgres.predictions())

    def clean_up(self) -> None:
        """End what is left, and write the line of a test that did not come to its end."""
        for service in self.services:
            if service.process.poll() is None:
                service.process.kill()  # there is no need to wait for a graceful end
            service.clean_up()
        if not self._concluded:
            self.fault += " (broken off)"
            if self.postgres.is_running():
                self.report()
        self.postgres.clean_up()
        self.journal.close()


def _start_program(program: str, folder: Path, **settings: object) -> Service:
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


def is_ready(port: int) -> bool:
    """Whether ``/readyz`` is answered with 200 over a new connection."""
    try:
        return get(port, "/readyz").status == 200
    except (RefusedError, LostError):
        return False


def workers_of(service: Service) -> list[int]:
    """The processes that serve; the only one, or those that it has started."""
    spawned = [pid for pid in children(service.process.pid) if "spawn_main" in command_of(pid)]
    return spawned or [service.process.pid]
