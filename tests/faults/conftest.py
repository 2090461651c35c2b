"""Faults: real processes, real signals, a real PostgreSQL. `make faults`; not part of `make test`.

``FAULTS_SCALE`` scales repetitions and durations; ``FAULTS_PGBOUNCER=1`` puts a PgBouncer before
PostgreSQL.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.faults.embedded import EmbeddedServer
from tests.faults.pooling import POOLED
from tests.faults.postgres import Postgres
from tests.faults.report import Line, table
from tests.faults.scale import SCALE
from tests.faults.trial import Trial

_lines: list[Line] = []


class OpenTrial(Protocol):
    """Begins a fault's trial, on a PostgreSQL of its own in ``where`` or in the test's folder.

    ``unpooled`` says why there is no sense in a PgBouncer here.
    """

    def __call__(
        self, fault: str, *options: str, where: Path | None = None, unpooled: str = ""
    ) -> Trial: ...


def pytest_report_header() -> str:
    return f"Faults: at {SCALE:g} of their scale, {'through PgBouncer' if POOLED else 'direct'}"


@pytest.fixture(scope="session", autouse=True)
def _ends_cleanly() -> Iterator[None]:
    """Have SIGTERM, as from a timeout, end what the tests have started too."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM"))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A stopped server with the service's schema, to be copied."""
    server = Postgres.initialise(tmp_path_factory.mktemp("cluster") / "postgres")
    yield server
    server.clean_up()


@pytest.fixture
def trials() -> Iterator[list[Trial]]:
    """The trials of one test, each of which is finished and cleaned up."""
    trials: list[Trial] = []
    try:
        yield trials
        for trial in trials:
            trial.finish()
    finally:
        for trial in trials:
            trial.clean_up()


@pytest.fixture
def open_trial(
    cluster: Postgres, trained_model: Path, tmp_path: Path, trials: list[Trial]
) -> OpenTrial:
    def open_trial(
        fault: str, *options: str, where: Path | None = None, unpooled: str = ""
    ) -> Trial:
        if POOLED and unpooled:
            pytest.skip(f"not through PgBouncer: {unpooled}")
        postgres = Postgres.copy_of(cluster, (where or tmp_path) / "postgres")
        trial = Trial(fault, postgres, tmp_path, trained_model, _lines)
        trials.append(trial)
        postgres.start(*options)
        return trial

    return open_trial


@pytest.fixture
def open_embedded_trial(
    data_dir: Path, tmp_path: Path, trials: list[Trial]
) -> Callable[[str], tuple[Trial, EmbeddedServer]]:
    """Begins a fault's trial, on the PostgreSQL that the service runs itself."""
    if POOLED:
        pytest.skip("not through PgBouncer: the embedded PostgreSQL is the service's own")

    def open_trial(fault: str) -> tuple[Trial, EmbeddedServer]:
        server = EmbeddedServer(data_dir)
        trials.append(Trial(fault, server, tmp_path, data_dir, _lines))
        return trials[-1], server

    return open_trial


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("faults")
        for text in table(_lines):
            terminalreporter.write_line(text)
        if terminalreporter.verbosity > 0:
            for line in _lines:
                terminalreporter.write_line(f"{line.fault}: {dict(line.whys)}")
