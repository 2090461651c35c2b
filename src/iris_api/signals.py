"""Handles the signals that end a command, until uvicorn handles them itself.

They raise `SystemExit` at the line that is running; it unwinds the stack, so that all that was
started is stopped. In an event loop's callbacks, the exception and the loop's next work are lost,
and asyncpg crashes. `defer_signals` wraps code that must not be interrupted.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
React = Callable[[], object]


@dataclass(slots=True)
class _State:
    """Signals belong to the process, and so does this state."""

    is_asked: bool = False
    """Whether a signal has arrived; its exception may be lost, for example in a destructor."""
    react: React | None = None
    """Called instead of raising."""
    report: Callable[[int], object] | None = None
    """Called with the number of the first signal, once."""


_state = _State()


def install_handlers() -> None:
    """Exit 0 on SIGINT, SIGTERM and SIGHUP; not on a SIGHUP that is ignored, as under nohup.

    A terminal sends SIGHUP when it is closed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    note(number)
    _state.is_asked = True
    if _state.react is None:
        raise SystemExit(0)
    _state.react()


def report_first(report: Callable[[int], object]) -> None:
    """Call ``report`` with the number of the first signal, as soon as it arrives."""
    _state.report = report


def note(number: int) -> None:
    """Report a signal, if it is the first. Call it in each handler that replaces this module's."""
    report, _state.report = _state.report, None
    if report is not None:
        report(number)


@contextmanager
def defer_signals(react: React = lambda: None) -> Iterator[Callable[[], bool]]:
    """Let signals call ``react`` during the block, and exit 0 after it.

    A pending signal calls it on entry. Yields a predicate: has a signal arrived? Only the outermost
    block exits.
    """
    outer, _state.react = _state.react, react
    try:
        if _state.is_asked:
            react()
        yield lambda: _state.is_asked
    finally:
        _state.react = outer
        if _state.is_asked and outer is None:
            raise SystemExit(0)


def ask_to_end() -> None:
    """Send SIGTERM to this process, from any thread, unless that would kill it.

    It would under pytest and Alembic's own command, where SIGTERM has no handler.
    """
    if signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, signal.SIG_IGN, None}:
        os.kill(os.getpid(), signal.SIGTERM)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, but a signal cancels ``main``; the process exits when that has ended."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101, for mypy
        loop = asyncio.get_running_loop()
        with defer_signals(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await main

    with defer_signals():
        return asyncio.run(cancellable())
