"""Keeping what changes, now and then, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SHARE = 0.05  # of the time, at most, goes into keeping: what takes long is kept less often


class Keeper:
    """Calls ``keep`` every so many seconds while something has changed, until `stop`.

    Args:
        keep: keeps what is there. It comes in another thread than the one that changes things, one call at a time.
        every: seconds from one call to the next, at least.
        told: is given the error of a call that failed; it is tried again the next time.
    """

    def __init__(self, keep: Callable[[], object], every: float, told: Callable[[Exception], object]) -> None:
        self._keep, self._every, self._told = keep, every, told
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="tanl-keeper", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is something to keep."""
        self._changed.set()

    def stop(self) -> bool:
        """End the thread, after the call that it is in; gives whether something is left to keep."""
        self._stopped.set()
        self._thread.join()
        return self._changed.is_set()

    def _go_on(self) -> None:
        wait = self._every
        while not self._stopped.wait(wait):
            wait = self._every
            if not self._changed.is_set():
                continue
            self._changed.clear()
            started = time.monotonic()
            try:
                self._keep()
            except Exception as error:
                self._changed.set()
                self._told(error)
            wait = max(self._every, (time.monotonic() - started) / _SHARE)
