"""What came of the inputs: accepted, refused, or one of the faults that are looked for."""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from tests.states import assert_same_state, state_of

REFUSALS = (ValueError, TypeError, OSError, ImportError)
SECONDS = 30.0
"""An input that takes longer hangs."""
_ROOT = str(Path(__file__).parents[2]) + os.sep


class Hung(BaseException):
    """An input that took too long."""


class Broken(Exception):  # noqa: N818, the name says what it is
    """Something that was accepted does not work."""


class Watch:
    """Counts what comes of the inputs of one area.

    Attributes:
        accepted: calls that came back.
        refused: calls that raised what they may raise.
        faults: how often each fault came: "uncaught", "changed" (a refused call changed a state), "broken" (what was
            accepted does not work) or "hung", with the place that it came from.
        examples: an input for each of them.
    """

    def __init__(self) -> None:
        self.accepted = self.refused = 0
        self.faults: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}

    def call(self, what: str, function: Callable[[], Any], holders: Sequence[Any] = ()) -> Any:
        """What the function gives; None if it refuses. ``holders`` have states, which a refusal must not change."""
        before = [state_of(holder) for holder in holders]
        try:
            with _time_limit():
                result = function()
        except REFUSALS as refusal:
            self.refused += 1
            for holder, state in zip(holders, before, strict=True):
                try:
                    assert_same_state(holder.state_dict(), state)
                except Exception as error:
                    self._fault("changed", _place(refusal), f"{what}: {error}")
            return None
        except Hung as error:
            self._fault("hung", _place(error), what)
            return None
        except SystemExit:
            raise
        except Exception as error:
            self._fault("uncaught", f"{type(error).__name__} {_place(error)}", f"{what}: {error}")
            return None
        self.accepted += 1
        return result

    def works(self, what: str, function: Callable[[], object]) -> None:
        """Use what was accepted; whatever this raises is a fault."""
        try:
            with _time_limit():
                function()
        except (Exception, Hung) as error:
            self._fault("broken", f"{type(error).__name__} {_place(error)}", f"{what}: {error}")

    def _fault(self, kind: str, where: str, what: str) -> None:
        self.faults[kind, where] += 1
        self.examples.setdefault((kind, where), what)


def all_finite(scores: torch.Tensor, what: str) -> None:
    """Refuse to go on with scores that are not."""
    if not bool(scores.isfinite().all()):
        raise Broken(f"{what} is not finite")


def _place(error: BaseException) -> str:
    """The last line of this project that the error came through."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_ROOT)
    ]
    ours = [frame for frame in frames if f"{os.sep}tools{os.sep}" not in frame.filename] or frames
    if not ours:
        return "outside"
    return f"{ours[-1].filename.removeprefix(_ROOT)} {ours[-1].name}"


@contextmanager
def _time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hung

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
