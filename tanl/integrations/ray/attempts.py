"""Who tried what how often: an actor beside the driver that finds the image on which workers die."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

_UNWATCHED = 2  # attempts at a unit before its images are taken one by one: nodes go, and nobody is to blame
_MOST = 3  # images of one unit on which workers may die


class Attempt(NamedTuple):
    """How to go about a unit.

    Attributes:
        watched: whether to tell of every image before it is touched, one at a time.
        culprits: rows on which workers have died: leave them out, and say so.
        hopeless: whether workers die on too many of them.
    """

    watched: bool
    culprits: frozenset[int]
    hopeless: bool


class Attempts:
    """Counts attempts at units; the plain class of the actor.

    A worker that dies (its memory runs out, a decoder crashes, a node goes) leaves its unit to another one. From the
    third attempt on the images are taken one by one, and one on which a worker dies then is left out with an error:
    an image alone must not hold up a run.
    """

    def __init__(self) -> None:
        self._tries: Counter[int] = Counter()
        self._at: dict[int, int] = {}
        self._culprits: dict[int, set[int]] = {}

    def begin(self, unit: int) -> Attempt:
        """A worker begins with a unit."""
        self._tries[unit] += 1
        culprits = self._culprits.setdefault(unit, set())
        if unit in self._at:  # the attempt before was watched, and ended at this image
            culprits.add(self._at.pop(unit))
        return Attempt(self._tries[unit] > _UNWATCHED, frozenset(culprits), len(culprits) > _MOST)

    def at(self, unit: int, row: int) -> None:
        """A worker is about to touch an image."""
        self._at[unit] = row

    def end(self, unit: int) -> None:
        """A unit is done."""
        for each in (self._tries, self._at, self._culprits):
            each.pop(unit, None)  # type: ignore[attr-defined]
