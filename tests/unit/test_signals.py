"""Signals that ask for an end are heard at once where that does no harm, else soon."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator

import pytest

from iris_api import signals

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "_state", signals._State())
    before = {number: signal.getsignal(number) for number in ASKING}
    signals.install_handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_install_handlers_on_a_signal_unwinds_the_stack_and_exits_with_0(
    number: signal.Signals,
) -> None:
    done: list[str] = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            done.append("undone")

    with pytest.raises(SystemExit) as ended:
        work()
    assert ended.value.code == 0
    assert done == ["undone"]


def test_report_first_is_called_at_once_with_the_first_signal_only() -> None:
    reported: list[object] = []
    signals.report_first(reported.append)
    with pytest.raises(SystemExit), signals.defer_signals():  # noqa: PT012, both are within it
        signal.raise_signal(signal.SIGINT)
        assert reported == [signal.SIGINT]
        signal.raise_signal(signal.SIGTERM)
    assert reported == [signal.SIGINT]


def test_note_reports_a_signal_that_another_handler_took() -> None:
    reported: list[object] = []
    signals.note(signal.SIGTERM)  # nobody wants to know it
    signals.report_first(reported.append)
    signals.note(signal.SIGTERM)
    signals.note(signal.SIGINT)
    assert reported == [signal.SIGTERM]


def test_install_handlers_with_sighup_ignored_keeps_it_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install_handlers()
    signal.raise_signal(signal.SIGHUP)


def test_defer_signals_on_a_signal_finishes_the_block_then_exits() -> None:
    done: list[str] = []

    def work() -> None:
        with signals.defer_signals() as is_asked:
            assert not is_asked()
            with signals.defer_signals(lambda: done.append("told")):
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            assert is_asked()
            done.append("outer")
        done.append("beyond")

    with pytest.raises(SystemExit):
        work()
    assert done == ["told", "inner", "outer"]


@signals.defer_signals()
def _fail_after_a_signal() -> None:
    signal.raise_signal(signal.SIGTERM)
    raise LookupError("a program fails that the terminal has told as well")


def test_defer_signals_on_a_signal_and_an_error_exits() -> None:
    with pytest.raises(SystemExit):
        _fail_after_a_signal()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_defer_signals_after_a_signal_lost_in_a_destructor_exits() -> None:
    class Ends:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    told = []
    ends = Ends()
    del ends
    with pytest.raises(SystemExit), signals.defer_signals(lambda: told.append(True)):
        assert told == [True]


async def _rest(done: list[str]) -> str:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        done.append("undone")
    return "never"


async def _ended_by_its_loop(done: list[str]) -> None:
    asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
    await _rest(done)


async def _ended_by_itself(done: list[str]) -> None:
    signal.raise_signal(signal.SIGTERM)
    done.append("not broken off")
    await _rest(done)


async def _ended_while_it_sleeps(done: list[str]) -> None:
    number = threading.main_thread().ident
    assert number is not None
    timer = threading.Timer(0.1, signal.pthread_kill, [number, signal.SIGTERM])
    timer.start()
    try:
        await _rest(done)
    finally:
        timer.join()


@pytest.mark.parametrize("main", [_ended_by_its_loop, _ended_by_itself, _ended_while_it_sleeps])
def test_signals_run_on_a_signal_cancels_the_task_and_exits(
    main: Callable[[list[str]], Coroutine[None, None, None]],
) -> None:
    done: list[str] = []
    with pytest.raises(SystemExit):
        signals.run(main(done))
    assert done[-1] == "undone"


def test_signals_run_without_a_signal_gives_the_result_or_the_error() -> None:
    async def main() -> str:
        await asyncio.sleep(0)
        return "result"

    assert signals.run(main()) == "result"
    with pytest.raises(LookupError):
        signals.run(_fails())


async def _fails() -> None:
    raise LookupError


_SIGNAL_DURING_IMPORTS = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "iris_api.cli":
            signal.raise_signal(signal.SIGHUP)

sys.meta_path.insert(0, Finder())
from iris_api.__main__ import main
main()
"""


def test_main_on_a_signal_during_its_imports_exits_with_0() -> None:
    result = subprocess.run([sys.executable, "-c", _SIGNAL_DURING_IMPORTS], check=False)
    assert result.returncode == 0
