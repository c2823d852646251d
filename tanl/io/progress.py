"""How far a long piece of work has come: a bar in a terminal, a line a minute elsewhere; on stderr or in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS = 60.0  # between two lines where stderr is no terminal
_UNSEEN = 0.5  # seconds before there is a bar: what is over by then needs none


class Progress:
    """Counts what is done, as a context manager.

    Args:
        total: how much there is; None where nobody knows.
        unit: of what, in the plural: "images".
        title: what is being done; empty if that goes without saying.
        done: how much of it was done before.
        quiet: show nothing.
        log: what gets the lines where stderr is no terminal; None has them on stderr.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        *,
        title: str = "",
        done: int = 0,
        quiet: bool = False,
        log: logging.Logger | None = None,
    ) -> None:
        self._total, self._unit, self._title = total, unit, title
        self._done = self._before = done
        self._started = self._told = time.monotonic()
        in_terminal = sys.stderr.isatty()
        self._in_lines = not quiet and not in_terminal
        self._quiet, self._log = quiet, None if in_terminal else log
        self._bar: tqdm[Any] = tqdm(
            total=total,
            initial=done,
            desc=title or None,
            unit=f" {unit}",
            disable=quiet or not in_terminal,
            delay=_UNSEEN,
        )

    def entitle(self, title: str) -> None:
        """Say what is being done from now on."""
        self._title = title
        self._bar.set_description(title or None)

    def update(self, count: int = 1) -> None:
        """So much more is done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._in_lines and now - self._told >= _SECONDS:
            self._told = now
            self._tell(self._line(now - self._started), logging.INFO)

    def tell(self, line: str) -> None:
        """Say what people wait to know: on stderr, or in the log as a warning, unless all is quiet."""
        self._tell(line, logging.WARNING)

    def _tell(self, line: str, level: int) -> None:
        if self._log is not None:
            self._log.log(level, "%s", line)
        elif not self._quiet:
            self.write(f"tanl: {line}", sys.stderr)

    def write(self, line: str, file: TextIO) -> None:
        """Print a line, and the bar below it."""
        self._bar.write(line, file=file)
        file.flush()

    def _line(self, seconds: float) -> str:
        parts = [f"{self._title}: " if self._title else "", f"{self._done}"]
        if self._total is not None:
            parts.append(f" of {self._total}")
        parts.append(f" {self._unit} in {duration(seconds)}")
        now = self._done - self._before
        if self._total is not None and now:
            parts.append(f", about {duration(seconds * max(0, self._total - self._done) / now)} to go")
        return "".join(parts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; what leaves the context does so too."""
        self._bar.close()


def duration(seconds: float) -> str:
    """A time in words: "40 s", "8 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
