"""The step as one writes it down from the formulas: what the fast one is compared with.

TANL, arXiv 2603.25250. Everything is materialised: the softmax of the batch over all labels, the activation rows
of both rings, a softmax for every prefix of the score, a masked variance for every threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

HISTORY = 20_000
# Subtract the maximum, exponentiate, add up, divide, add up.
_FLOP_PER_VALUE = 5


def scoring_flop(batch: int, num_id: int, num_selected: int, step: int) -> int:
    """Floating-point operations of a step's two scorings: ``O(B K^2 / q)`` for q >= 1."""
    lengths = prefixes(num_selected, step)
    return 2 * _FLOP_PER_VALUE * batch * (len(lengths) * num_id + sum(lengths))


def prefixes(num_selected: int, step: int) -> list[int]:
    """The m over which the score is averaged: ``step, 2 step, ..., K``; K alone for ``step=0``."""
    return [*range(step, num_selected, step), num_selected] if step else [num_selected]


class NaiveTANL:
    """TANL by its formulas, fp32 throughout.

    Args:
        labels: ``[C + M, D]``, ID labels first.
        num_id: C.
        scale: the logit scale.
        num_selected: K.
        step: q.
        gap: g.
        alpha: the rings' weight in the final ranking.
        capacity: L.
        seed: orders the ID labels that start the positive ring; None keeps their order.
        initial_ood: ``[n, D]``, what starts the negative ring.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        num_id: int,
        scale: float,
        num_selected: int,
        step: int,
        gap: float,
        alpha: float,
        capacity: int,
        seed: int | None,
        initial_ood: Tensor,
    ) -> None:
        self.labels, self.num_id, self.scale = labels, num_id, scale
        self.num_selected = min(num_selected, len(labels) - num_id)
        self.step, self.gap, self.alpha, self.capacity = step, gap, alpha, capacity
        known = labels[:num_id]
        if seed is not None:
            order = torch.randperm(num_id, generator=torch.Generator().manual_seed(seed))
            known = known[order.to(labels.device)]
        self.positive = self._activations(self._logits(known[-capacity:]))  # [L, M]
        self.negative = self._activations(self._logits(initial_ood[-capacity:]))
        everything = self._logits(torch.cat([labels[:num_id], initial_ood]))
        selected = self._top(self.negative.mean(dim=0) - self.positive.mean(dim=0))
        self.history = self._confidence(everything, selected)
        self.confident = (0, 0)

    @torch.no_grad()
    def __call__(self, z: Tensor) -> Tensor:
        """One step: ``[B, D] -> [B]`` OOD scores, and the rings move on."""
        logits = self._logits(z)  # [B, C + M]
        activation = self._activations(logits)  # [B, M]
        positive, negative = self.positive.mean(dim=0), self.negative.mean(dim=0)
        confidence = self._confidence(logits, self._top(negative - positive))
        self.history = torch.cat([self.history, confidence])[-HISTORY:]
        threshold = otsu_by_masks(self.history)
        is_id = confidence > threshold + self.gap * (1 - threshold)
        is_ood = confidence < threshold - self.gap * threshold
        self.confident = int(is_id.sum()), int(is_ood.sum())
        id_rows, ood_rows = activation[is_id], activation[is_ood]
        if len(id_rows):
            positive = self.alpha * positive + (1 - self.alpha) * id_rows.mean(dim=0)
        if len(ood_rows):
            negative = self.alpha * negative + (1 - self.alpha) * ood_rows.mean(dim=0)
        scores = 1 - self._confidence(logits, self._top(negative - positive))
        self.positive = torch.cat([self.positive, id_rows])[-self.capacity :]
        self.negative = torch.cat([self.negative, ood_rows])[-self.capacity :]
        return scores

    def _logits(self, z: Tensor) -> Tensor:
        return self.scale * z @ self.labels.T

    def _activations(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=1)[:, self.num_id :]

    def _top(self, relevance: Tensor) -> Tensor:
        return relevance.topk(self.num_selected).indices

    def _confidence(self, logits: Tensor, selected: Tensor) -> Tensor:
        """The ID labels' share, averaged over the prefixes: ``[B, C + M] -> [B]``."""
        chosen = torch.cat([logits[:, : self.num_id], logits[:, self.num_id + selected]], dim=1)
        lengths = prefixes(len(selected), self.step)
        total = torch.zeros(len(logits), device=logits.device)
        for m in lengths:
            total += torch.softmax(chosen[:, : self.num_id + m], dim=1)[:, : self.num_id].sum(dim=1)
        return total / len(lengths)


def otsu_by_masks(scores: Tensor) -> float:
    """Otsu's threshold on 0, 0.01, ..., 0.99, a masked variance for either side of each.

    Values that leave a side empty are skipped; among n equal minima the one at index ``n // 2`` is taken; 0.5 where
    none is left.
    """
    found: list[tuple[float, float]] = []
    for threshold in torch.arange(0, 1, 0.01, device=scores.device):
        mask = scores >= threshold
        above, below = scores[mask], scores[~mask]
        if len(above) and len(below):
            within = len(above) * above.var(correction=0) + len(below) * below.var(correction=0)
            found.append((float(within) / len(scores), float(threshold)))
    if not found:
        return 0.5
    least = min(value for value, _ in found)
    equal = [threshold for value, threshold in found if value == least]
    return equal[len(equal) // 2]
