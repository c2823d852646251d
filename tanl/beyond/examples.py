"""Examples for a prompt: those that fit the query, the most relevant last, without those that do not belong.

SMMILE (Rieff et al. 2025, arXiv 2506.21355) finds that irrelevant examples in the prompt of a multimodal model cost
much, that the order matters, and that the last example counts most. This is what follows for choosing them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..checks import Embeddings, unit_embeddings, whole_number
from ..detectors import Detector
from ..kernels.surroundings import undisturbed

_Answer = TypeVar("_Answer", bound=Hashable)


@dataclass(frozen=True)
class Examples:
    """What `order_examples` chose.

    Attributes:
        order: ``[n]`` rows of the pool in the order for the prompt: the most similar last.
        similarities: ``[n]`` their cosines with the query.
        screened: ``[m]`` rows that were left out because the detector flags them.
    """

    order: Tensor
    similarities: Tensor
    screened: Tensor


@undisturbed
def order_examples(
    query: Embeddings, pool: Embeddings, k: int, *, detector: Detector | None = None
) -> Examples:
    """Choose examples for a query and put them in order.

    Args:
        query: ``[1, D]`` a unit row.
        pool: ``[N, D]`` unit rows of the examples that there are.
        k: how many; fewer come back if the detector leaves fewer.
        detector: screens the pool (`Detector.predict`, which learns nothing); its labels are the task's classes. None
            screens nothing.

    Raises:
        TypeError, ValueError: unusable embeddings or numbers, or a detector without a threshold.
    """
    z = unit_embeddings(pool, "pool")
    q = unit_embeddings(query, "query", dim=z.shape[1], device=z.device)
    if len(q) != 1:
        raise ValueError(f"query must be one row [1, D], not {list(q.shape)}")
    wanted = whole_number(k, "k", at_least=1)
    flagged = (
        torch.zeros(len(z), dtype=torch.bool, device=z.device) if detector is None else detector.predict(z)
    )
    similarities = (z @ q[0]).masked_fill(flagged, -float("inf"))
    best = similarities.sort(descending=True, stable=True).indices[: min(wanted, int((~flagged).sum()))]
    order = best.flip(0)
    return Examples(order, similarities[order], flagged.nonzero()[:, 0])


def without_recency(answers: Sequence[_Answer], votes: Sequence[Sequence[_Answer]]) -> dict[_Answer, float]:
    """The answers' shares of the votes when each order of the examples is asked and each has the same say.

    A model that repeats the last example's answer gives every answer its turn when the examples are rotated, so that
    the rotation's votes say little for any of them, and what the query says remains.

    Args:
        answers: the answers that count.
        votes: for each rotation of the examples, what the model answered, once or several times.

    Raises:
        ValueError: no votes, or a rotation without one.
    """
    if not votes or not all(votes):
        raise ValueError("votes must hold at least one answer for each rotation")
    shares = dict.fromkeys(answers, 0.0)
    for rotation in votes:
        for answer in rotation:
            if answer in shares:
                shares[answer] += 1 / (len(rotation) * len(votes))
    return shares


def rotations(order: Sequence[int]) -> list[list[int]]:
    """The examples in every rotation: each of them is the last one once."""
    return [[*order[turn:], *order[:turn]] for turn in range(len(order))]
