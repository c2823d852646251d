"""Stopping on request: Ctrl-C, SIGTERM and SIGHUP alike, and never in the middle of what belongs together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stopped(KeyboardInterrupt):
    """The process was asked to end, by ``number``; whatever catches Ctrl-C catches this."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Held:
    """Whether a signal has to wait, and one that waits."""

    depth = 0
    waiting: int | None = None


@contextmanager
def stoppable() -> Iterator[None]:
    """While it lasts the signals raise `Stopped` in the main thread, unless whoever started the process has them
    ignored (``nohup``) or handles them itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """What happens inside happens as a whole: a signal waits for its end."""
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        if not _Held.depth and _Held.waiting is not None:
            number, _Held.waiting = _Held.waiting, None
            raise Stopped(number)


def exit_code(stop: KeyboardInterrupt) -> int:
    """What shells expect of a process that a signal ended: 130, 143, 129."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


def in_words(stop: KeyboardInterrupt) -> str:
    """What is told of it."""
    return "terminated" if isinstance(stop, Stopped) and stop.number != signal.SIGINT else "interrupted"


def _stop(number: int, frame: FrameType | None) -> None:
    if _Held.depth:
        _Held.waiting = number
        return
    raise Stopped(number)
