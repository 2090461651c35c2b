"""One fault: its services, its journal, its verdict, its line in the table."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.asking import ANONYMOUS_CALLER, OK, Outcome, Request
from tests.faults.journal import Journal
from tests.faults.load import Behaviour, Crowd, Mix, ask_all, ask_once, asking
from tests.faults.pooling import Pooling
from tests.faults.postgres import Postgres
from tests.faults.report import Line
from tests.faults.scale import scaled
from tests.faults.verdict import Verdict
from tests.support.processes import is_connected_to
from tests.support.service import Service, poll_until
from tests.support.service_processes import is_ready, start_program, workers_of

POOL = 8
REQUEST_SECONDS = 10 + 1  # IRIS_REQUEST_TIMEOUT, and what a machine at work adds
RECOVERY_SECONDS = 5
_CLIENTS = 16
_BACKENDS_PATIENCE = 2.0  # seconds after a storm
_RECOVERY_PATIENCE = 60.0


class Trial:
    """Everything that one test needs to do harm and to count the damage."""

    def __init__(
        self, fault: str, postgres: Postgres, folder: Path, model: Path, lines: list[Line]
    ) -> None:
        self.fault = fault
        self.postgres = postgres
        """Where the rows are."""
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.caller = ANONYMOUS_CALLER
        """Who asks where the test itself does."""
        self.times = 0
        self.recoveries: list[float] = []
        self._services: list[Service] = []
        self._model = model
        self._lines = lines
        self._reported: dict[Journal, int] = {}  # which of the lines each page has
        self._is_to_hold = False
        self._storm_ended = math.inf
        self._pooling = Pooling(folder)

    def go_on(self, fault: str) -> None:
        """Begin another fault, with the servers of this one."""
        assert self.journal in self._reported
        self.fault = fault
        self.journal = self.journal.next_page()
        self.times = 0
        self.recoveries = []

    def serve(
        self, database_port: int | None = None, program: str | None = None, **settings: object
    ) -> Service:
        """Start a service, behind a proxy's port perhaps, and wait until it is ready."""
        return self.start(database_port, program, **settings).until_ready()

    def start(
        self, database_port: int | None = None, program: str | None = None, **settings: object
    ) -> Service:
        """Start a service, or another program that serves as it does."""
        database = self._pooling.settings(self.postgres.url(database_port))
        settings = {**database, "data_dir": self._model, "log_level": "WARNING", **settings}
        if program is None:
            service = Service.start_interpreter(self.folder, **settings)
        else:
            service = start_program(program, self.folder, **settings)
        self._services.append(service)
        return service

    def rounds(self, number: int, *, at_least: int = 1) -> Iterator[int]:
        """So many repetitions, scaled, and counted for the table."""
        for turn in range(scaled(number, at_least=at_least)):
            self.times += 1
            yield turn

    @contextmanager
    def load(
        self,
        *ports: int,
        mixes: Sequence[Mix] = (Mix(),),
        clients: int = _CLIENTS,
        beside: Sequence[Behaviour] = (),
    ) -> Iterator[None]:
        """Clients at work for the length of the block, which begins at the first answers."""
        behaviours = [
            asking(ports[number % len(ports)], self.journal, mixes[number % len(mixes)])
            for number in range(clients)
        ]
        with Crowd([*behaviours, *beside]):
            self.until_answered(clients)
            yield
        self._storm_ended = time.monotonic()

    def until_answered(self, more: int) -> None:
        """Return when so many more attempts have an outcome."""
        wanted = self.journal.counts.total() + more
        poll_until(lambda: self.journal.counts.total() >= wanted, f"{more} more have an outcome")

    def until_stored(self, more: int) -> None:
        """Return when so many more predictions were answered with 2xx."""
        wanted = self.journal.counts["ok"] + more
        poll_until(lambda: self.journal.counts["ok"] >= wanted, f"{more} more are stored")

    def until_recovered(self, *ports: int, since: float, within: float = RECOVERY_SECONDS) -> None:
        """Return, and note how long it took, when each port predicts and says that it is ready."""
        for port in ports:
            while not (self.probe(port).state == "ok" and is_ready(port)):
                waited = time.monotonic() - since
                assert waited < _RECOVERY_PATIENCE, f"no recovery in {waited:.0f} s"
                time.sleep(0.02)
        self.note_recovery(since, within)

    def note_recovery(self, since: float, within: float = RECOVERY_SECONDS) -> None:
        """The service is as it was, now."""
        self.recoveries.append(time.monotonic() - since)
        assert self.recoveries[-1] < within, f"a recovery took {self.recoveries[-1]:.1f} s"

    def probe(self, port: int, request: Request | None = None) -> Outcome:
        """Ask once, over a connection of its own."""
        request = request or self.journal.new_request(caller=self.caller)
        return ask_once(port, self.journal, request)

    def until_all_work(self, service: Service, number: int) -> list[int]:
        """Return the workers, when so many of them run and have begun to use the database."""
        port = self._pooling.port or self.postgres.port

        def working() -> list[int]:
            self.probe(service.port)
            return [pid for pid in workers_of(service) if is_connected_to(pid, port)]

        poll_until(lambda: len(working()) == number, f"{number} workers serve")
        return working()

    def conclude(
        self, port: int, *allowed: str, backends: int = POOL, worst: float = REQUEST_SECONDS
    ) -> Verdict:
        """Settle, write the line, then hold the promise against what was found.

        Returns the verdict over what was found before unknown outcomes were settled. Fails where
        an attempt came out otherwise than ok, or as one of those that are ``allowed``.
        """
        self._until_few_backends(backends)
        self._until_idle()
        before = self.judge()
        self._settle(port, before)
        self.report(before).assert_promise_held()
        self._is_to_hold = True
        assert before.counts["ok"] > 0
        assert set(before.whys) <= {OK, *allowed}, before.whys
        assert before.worst < worst
        return before

    def _until_few_backends(self, at_most: int) -> None:
        """The service has given back, or has lost, what is over its pools."""
        deadline = min(self._storm_ended, time.monotonic()) + _BACKENDS_PATIENCE
        self._storm_ended = math.inf
        while (found := len(self.postgres.backends())) > at_most:
            assert time.monotonic() < deadline, f"{found} connections are left, not {at_most}"
            time.sleep(0.05)

    def _until_idle(self) -> None:
        """Nothing is under way that could still be committed."""
        poll_until(lambda: not self.postgres.backends(at_work=True), "no backend is at work")

    def _settle(self, port: int, verdict: Verdict) -> None:
        """Do as a client does that holds a key: ask the same again."""
        outcomes = ask_all(port, self.journal, verdict.unsettled)
        for request, outcome in zip(verdict.unsettled, outcomes, strict=True):
            assert outcome.state == "ok", f"{request} was unknown, and then {outcome}"

    def report(self, before: Verdict | None = None) -> Verdict:
        """Judge, and write the line; outcomes are counted as they were ``before`` any settling."""
        verdict = self.judge()
        before = before or verdict
        self._reported[self.journal] = len(self._lines)
        line = Line.of(self.fault, self.times, before, max(self.recoveries, default=None))
        self._lines.append(line.as_found(verdict))
        return verdict

    def judge(self) -> Verdict:
        """Hold the journal against the table."""
        return self.journal.judge(self.postgres.predictions())

    def finish(self) -> None:
        """End the services, and see that what held still holds when nobody is left to break it."""
        if not self._is_to_hold:
            return
        for service in self._services:
            if service.process.poll() is None:
                service.stop(signal.SIGINT)
        self._until_idle()
        rows = self.postgres.predictions()
        for page, index in self._reported.items():
            verdict = page.judge(rows)
            self._lines[index] = self._lines[index].as_found(verdict)
            verdict.assert_promise_held()

    def clean_up(self) -> None:
        """End what is left, and write the line of a test that did not come to its end."""
        for service in self._services:
            if service.process.poll() is None:
                service.process.kill()  # there is no need to wait for a graceful end
            service.clean_up()
        if self.journal not in self._reported:
            self.fault += " (broken off)"
            if self.postgres.is_running():
                self.report()
        self._pooling.close()
        self.postgres.clean_up()
        for page in {self.journal, *self._reported}:
            page.close()
