"""How far a long piece of work has come: a bar in a terminal, a line a minute elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS = 60.0  # between two lines where stderr is no terminal


class Progress:
    """Counts what is done, as a context manager.

    Args:
        total: how much there is; None where nobody knows.
        unit: of what, in the plural: "images".
        title: what is being done; empty if that goes without saying.
        quiet: show nothing.
    """

    def __init__(self, total: int | None, unit: str, *, title: str = "", quiet: bool = False) -> None:
        self._total, self._unit, self._title = total, unit, title
        self._done = 0
        self._started = self._told = time.monotonic()
        in_terminal = sys.stderr.isatty()
        self._in_lines = not quiet and not in_terminal
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=title or None, unit=f" {unit}", disable=quiet or not in_terminal
        )

    def update(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._in_lines and now - self._told >= _SECONDS:
            self._told = now
            self.write(f"tanl: {self._line(now - self._started)}", sys.stderr)

    def write(self, line: str, file: TextIO) -> None:
        """Print a line, and the bar below it."""
        self._bar.write(line, file=file)
        file.flush()

    def _line(self, seconds: float) -> str:
        parts = [f"{self._title}: " if self._title else "", f"{self._done}"]
        if self._total is not None:
            parts.append(f" of {self._total}")
        parts.append(f" {self._unit} in {_duration(seconds)}")
        if self._total is not None and self._done:
            parts.append(
                f", about {_duration(seconds * max(0, self._total - self._done) / self._done)} to go"
            )
        return "".join(parts)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
