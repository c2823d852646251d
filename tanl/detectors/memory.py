"""What a method that learns from its stream says of its memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MemoryReport:
    """The state of a memory with a side for ID and a side for OOD images.

    Attributes:
        images: how many images of the stream it has seen.
        admitted_id: how many of them it took for ID, those that it has forgotten again among them.
        admitted_ood: how many it took for OOD.
        held_id: how many embeddings it holds for ID, known ones from before the stream among them.
        held_ood: the same for OOD.
        concentration_id: the mean cosine of two embeddings that it holds for ID; None of fewer than two.
        concentration_ood: the same for OOD.
        moved: the share of the labels it scores with that are not those of the start.
    """

    images: int
    admitted_id: int
    admitted_ood: int
    held_id: int
    held_ood: int
    concentration_id: float | None
    concentration_ood: float | None
    moved: float


def mean_cosine(rows: Tensor) -> float | None:
    """The mean cosine of two different ones of the unit rows ``[n, D]``; None of fewer than two."""
    count = len(rows)
    if count < 2:
        return None
    total = rows.double().sum(dim=0)
    return (float(total @ total) - count) / (count * (count - 1))
