"""The papers' formulas as pure functions of tensors.

Notation: ``z [B, D]`` image embeddings, ``T [C, D]`` ID label embeddings, ``N [M, D]`` negative label
embeddings, all of unit norm; ``s`` the logit scale. Every score is an OOD score: higher = more OOD.
Products are tiled, so that no function ever holds ``[B, C + M]`` at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE_LABELS = 2048
TILE_ROWS = 96
OTSU_GRID = 100
# exp(75) / (1 + exp(75)) is 1 in float32, and 100 000 such terms still add up without overflow.
_LARGEST_EXPONENT = 75.0


def mcm_score(cosines: Tensor, temperature: float = 1.0) -> Tensor:
    """Maximum concept matching, as an OOD score: one minus the largest softmax probability.

    Ming et al., *Delving into OOD detection with vision-language representations*, NeurIPS 2022, eq. 2-3.

    Args:
        cosines: similarities to the ID labels, ``[B, C]``.
        temperature: the softmax temperature on cosines; the paper's is 1.

    Returns:
        ``[B]``, in [0, 1 - 1/C], computed as the mass of the other labels so that confident rows keep
        their digits.
    """
    logits = cosines / temperature
    best = logits.max(dim=1, keepdim=True)
    others = (logits - best.values).exp().scatter(1, best.indices, 0.0).sum(dim=1)
    return others / (1 + others)


def energy_score(logits: Tensor) -> Tensor:
    """The free energy ``-log sum_c exp(logit_c)``, ``[B, C] -> [B]`` (Liu et al., NeurIPS 2020, eq. 4)."""
    return -logits.logsumexp(dim=1)


def negative_share(id_logits: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """Activation-aware share of the negative labels (TANL, arXiv 2603.25250).

    With ``I`` the summed exponentials of the ID logits and ``W_m`` those of the first m negative labels,
    the mean of ``W_m / (I + W_m)`` over m in {step, 2 step, ..., K}, where the last m is always K.
    ``step=0`` means the single m = K: NegLabel's sum score (arXiv 2403.20078, eq. 4).

    Args:
        id_logits: ``[B, C]``.
        negative_logits: ``[B, K]``, the most activated label first.
        step: distance between prefixes, 0 for the last prefix only.

    Returns:
        ``[B]`` in [0, 1]. One cumulative sum: O(K) a row.
    """
    reference = id_logits.logsumexp(dim=1, keepdim=True)
    ratio = (negative_logits - reference).clamp(max=_LARGEST_EXPONENT).exp()  # [B, K]
    if step == 0:
        total = ratio.sum(dim=1)
        return total / (1 + total)
    if step > 1:
        ratio = torch.nn.functional.pad(ratio, (0, -ratio.shape[1] % step))
        ratio = ratio.view(len(ratio), -1, step).sum(dim=2)
    prefix = ratio.cumsum(dim=1)
    return (prefix / (1 + prefix)).mean(dim=1)


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Log-sum-exp of ``scale * z @ labels.T`` along the labels, ``[B]``, a tile of labels at a time."""
    total = torch.full((len(z),), -torch.inf, dtype=z.dtype, device=z.device)
    scaled = (z * scale).T
    for start in range(0, len(labels), TILE_LABELS):
        total = torch.logaddexp(total, (labels[start : start + TILE_LABELS] @ scaled).logsumexp(dim=0))
    return total


def grouped_negative_share(
    z: Tensor, id_labels: Tensor, negatives: Tensor, scale: float, groups: int
) -> Tensor:
    """NegLabel's grouped score: the share of the negatives, averaged over consecutive groups.

    Jiang et al., ICLR 2024 (arXiv 2403.20078), section 3.3. The last ``M mod groups`` negatives are dropped.

    Args:
        z: ``[B, D]``.
        id_labels: ``[C, D]``.
        negatives: ``[M, D]``, M >= groups.
        scale: the logit scale.
        groups: the number of groups.

    Returns:
        ``[B]`` in [0, 1].
    """
    size = len(negatives) // groups
    id_lse = row_lse(z, id_labels, scale)
    shares = [
        torch.sigmoid(row_lse(z, negatives[g * size : (g + 1) * size], scale) - id_lse) for g in range(groups)
    ]
    return torch.stack(shares).mean(dim=0)


def activation_sums(z: Tensor, labels: Tensor, num_id: int, scale: float, weights: Tensor) -> Tensor:
    """Weighted sums over rows of the negative labels' activations.

    The activation of a row is ``softmax(scale * z @ labels.T)[num_id:]``, the softmax taken over all labels.
    At most 96 rows are taken at a time, in even parts. Each tile of exponentials keeps a maximum of its own,
    so one pass over the labels gives the exponentials, their sum, and then, from the kept tiles, the weighted
    sums.

    Args:
        z: ``[n, D]``.
        labels: ``[C + M, D]``, the ID labels first.
        num_id: C.
        scale: the logit scale.
        weights: ``[G, n]``.

    Returns:
        ``[G, M]``: ``sum_b weights[g, b] * activation_b``.
    """
    sums = torch.zeros(len(labels), len(weights), dtype=z.dtype, device=z.device)
    parts = torch.split(labels, TILE_LABELS)
    kept: list[Tensor] = []
    chunks = -(-len(z) // TILE_ROWS)
    for rows, weight in zip(z.chunk(chunks), weights.chunk(chunks, dim=1), strict=True):
        count = len(rows)
        columns = (rows * scale).T  # labels x rows is the faster product
        if not kept or kept[0].shape[1] != count:
            kept = [part.new_empty(len(part), count) for part in parts]
        maxima = torch.empty(len(parts), count, dtype=z.dtype, device=z.device)
        totals = torch.empty_like(maxima)
        for t, part in enumerate(parts):
            torch.mm(part, columns, out=kept[t])
            torch.amax(kept[t], dim=0, out=maxima[t])
            torch.sum(kept[t].sub_(maxima[t]).exp_(), dim=0, out=totals[t])
        lse = (maxima + totals.log()).logsumexp(dim=0)
        factors = (maxima - lse).exp()  # [tiles, b]: from a tile's own maximum to probabilities
        for t, tile in enumerate(kept):
            share = (weight * factors[t]).T
            into = sums[t * TILE_LABELS : (t + 1) * TILE_LABELS]
            torch.addmm(into, tile, share, out=into)
    return sums[num_id:].T


def otsu_threshold(scores: Tensor) -> float:
    """Otsu's threshold of ID confidences on the grid 0, 0.01, ..., 0.99.

    Minimises ``w0 var0 + w1 var1`` of the split at ``score >= t`` (population variances). Values that leave
    a side empty are skipped; among n equal minima the one at index ``n // 2`` is taken. One histogram of
    counts, sums and sums of squares in float64 replaces a pass over the scores for every t.

    Args:
        scores: ``[n]`` in [0, 1].

    Returns:
        The threshold; 0.5 where no grid value splits the scores (as when all of them are equal).
    """
    grid = torch.arange(0, 1, 1 / OTSU_GRID, dtype=torch.float32)[:OTSU_GRID]
    values = scores.detach().float().cpu()
    bins = torch.bucketize(values, grid, right=True)  # score >= grid[k] exactly where bin > k
    exact = values.double()
    moments = torch.stack(
        [
            torch.bincount(bins, weights=w, minlength=OTSU_GRID + 1)
            for w in (torch.ones_like(exact), exact, exact**2)
        ]
    )  # [3, 101]: count, sum, sum of squares
    below = moments.cumsum(dim=1)[:, :OTSU_GRID]
    above = moments.sum(dim=1, keepdim=True) - below
    spread = _scatter(below) + _scatter(above)
    spread[(below[0] == 0) | (above[0] < 0.5)] = torch.inf
    minima = (spread == spread.min()).nonzero()[:, 0]
    return float(grid[minima[len(minima) // 2]])


def _scatter(moments: Tensor) -> Tensor:
    """Count times population variance from (count, sum, sum of squares), ``[3, n] -> [n]``."""
    count, total, squares = moments
    spread: Tensor = squares - total**2 / count.clamp(min=1)
    return spread


def stable_topk(values: Tensor, k: int) -> Tensor:
    """Indices ``[min(k, M)]`` of the largest of values ``[M]``, largest first; equal ones keep their order."""
    k = min(k, len(values))
    smallest = values.topk(k).values[-1]
    candidates = (values >= smallest).nonzero()[:, 0]
    order = values[candidates].sort(descending=True, stable=True).indices
    top: Tensor = candidates[order[:k]]
    return top
