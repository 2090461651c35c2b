"""The signals that ask a command to end, until uvicorn hears them itself.

They raise `SystemExit`, which unwinds the stack, so that what was started is stopped. It comes out
of whatever line just runs, and some must not be broken off: within an event loop's callbacks the
exception is lost, along with what the loop was about to do, and asyncpg crashes of it. There, they
are held.
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
    """Of this process, as signals are."""

    is_asked: bool = False
    """Whether a signal has come; what it raised may have been lost, in a destructor for example."""
    react: React | None = None
    """What is called in place of raising."""


_state = _State()


def install_handlers() -> None:
    """Exit 0 at SIGINT, SIGTERM and SIGHUP; not at the last where it is ignored, as nohup has it.

    SIGHUP comes of a terminal that is closed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    _state.is_asked = True
    if _state.react is None:
        raise SystemExit(0)
    _state.react()


@contextmanager
def defer_signals(react: React = lambda: None) -> Iterator[Callable[[], bool]]:
    """Let no signal break off the block: have them call ``react``, and exit 0 after the block.

    One that has come before calls it at the block's begin. Yields what tells whether any has come.
    Within another such block, that one exits.
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
    """Ask this process to end, as SIGTERM does, from any thread; nothing where that would kill it.

    Under pytest and Alembic's own command, SIGTERM has no handler.
    """
    if signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, signal.SIG_IGN, None}:
        os.kill(os.getpid(), signal.SIGTERM)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, but a signal cancels ``main``, and the process exits once that has ended."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101, for mypy
        loop = asyncio.get_running_loop()
        with defer_signals(lambda: loop.call_soon_threadsafe(task.cancel)):
            return await main

    with defer_signals():
        return asyncio.run(cancellable())
