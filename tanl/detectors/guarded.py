"""The guarded memory: what may enter TANL's rings, how much they count, and where its threshold is anchored.

In a stream with few outliers the published memory feeds itself: ID images that score low enter the negative ring, the
labels that they activate are selected, and more ID images score low. The rules here break that circle at its entrance.
They are this project's own, not the paper's; docs/method.md has them as formulas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import fraction, whole_number
from ..functional import otsu_value
from ..kernels.surroundings import product

MEMORIES = ("published", "guarded")


@dataclass(frozen=True)
class GuardedMemory:
    """Settings of TANL's guarded memory: ``TANL(bank, memory=GuardedMemory(prior=100))``.

    Args:
        gate: in [0, 1]. An image enters a ring only if the labels that were selected at the start, which no image of
            the stream can change, also call it confident, with this confidence as their threshold.
        anchor: in [0, 1): the share of the history's weight, when Otsu's threshold is taken, that the ID labels and the
            known outliers have together, half each.
        prior: how many images the start's mean activation counts for beside those that a ring admitted.
        duplicate: in [0, 1]: an image whose cosine with one in the ring, or with an earlier one of its batch, is above
            this enters no ring; 1 admits all.
        per_source: in (0, 1]: the share of a ring's places that images of one source may hold, where sources are
            told (``detector(z, source=...)``); at least one place.

    Raises:
        TypeError, ValueError: an unusable setting.
    """

    gate: float = 0.5
    anchor: float = 0.5
    prior: int = 50
    duplicate: float = 0.9
    per_source: float = 0.1

    def __post_init__(self) -> None:
        for name in ("gate", "anchor", "duplicate", "per_source"):
            object.__setattr__(self, name, fraction(getattr(self, name), name))
        object.__setattr__(self, "prior", whole_number(self.prior, "prior", at_least=0))
        if self.anchor == 1:
            raise ValueError("anchor must be below 1, or the stream would have no weight at all")
        if self.per_source == 0:
            raise ValueError("per_source must be above 0, or no image with a source could be learnt from")


@dataclass(frozen=True)
class Start:
    """What the guarded memory holds on to from before the stream.

    Attributes:
        positive: mean activation of the ID labels that start the positive ring, ``[M]`` float64.
        negative: the same of the known outliers, ``[M]`` float64.
        selected: the negatives selected by these two, ``[K]``.
        labels: first-pass confidences of the ID labels, ``[C]``.
        outliers: first-pass confidences of the known outliers, ``[n]``.
    """

    positive: Tensor
    negative: Tensor
    selected: Tensor
    labels: Tensor
    outliers: Tensor


def memory_settings(memory: str | GuardedMemory) -> GuardedMemory | None:
    """The settings that ``memory`` stands for; None for the published memory.

    Raises:
        TypeError, ValueError: it is neither a name nor settings.
    """
    if isinstance(memory, GuardedMemory):
        return memory
    if not isinstance(memory, str):
        raise TypeError(f"memory must be a name or a GuardedMemory, not {memory!r}")
    if memory not in MEMORIES:
        raise ValueError(
            f"no memory {memory!r}; there are {', '.join(map(repr, MEMORIES))}, or a GuardedMemory"
        )
    return GuardedMemory() if memory == "guarded" else None


def shrunk(mean: Tensor, start: Tensor, admitted: int, prior: int) -> Tensor:
    """A ring's mean ``[M]`` drawn to the start's: ``(n mean + prior start) / (n + prior)``, n images admitted."""
    weight = admitted + prior
    return mean if weight == 0 else (admitted * mean + prior * start) / weight


def anchored_value(history: Tensor, start: Start, anchor: float) -> Tensor:
    """Otsu's threshold of the history ``[n]`` with the start's confidences as ``anchor`` of its weight, one value."""
    if anchor == 0:
        return otsu_value(history)
    copies = len(history) * anchor / (1 - anchor) / 2
    parts = [history]
    for known in (start.labels, start.outliers):
        if len(known):
            parts.append(known.repeat(max(1, round(copies / len(known)))))
    return otsu_value(torch.cat(parts))


def without_duplicates(rows: Tensor, taken: Tensor, remembered: Tensor, limit: float) -> Tensor:
    """Which of the taken ones ``[n]`` bool of the rows ``[n, D]`` are like none that is remembered ``[m, D]`` and like
    no earlier one of them, ``[n]`` bool."""
    if limit == 1:
        return taken
    alike = product(rows, rows.T) > limit
    near = (alike & taken).tril(-1).any(dim=1)
    if len(remembered):
        near |= product(rows, remembered.T).amax(dim=1) > limit
    return taken & ~near


def within_share(
    rows: Sequence[int], sources: Sequence[str | None], held: Sequence[str | None], most: int
) -> list[int]:
    """Those of the ``rows`` whose source would not hold more than ``most`` places of a ring, in their order.

    Args:
        rows: numbers of images in the batch.
        sources: the source of each image of the batch; None is never bounded.
        held: the sources of the ring's images.
        most: places that one source may hold.
    """
    places = Counter(held)
    kept = []
    for row in rows:
        source = sources[row]
        if source is None or places[source] < most:
            places[source] += 1
            kept.append(row)
    return kept
