"""The papers' formulas as pure functions of tensors.

Notation: ``z [B, D]`` image embeddings, ``T [C, D]`` ID label embeddings, ``N [M, D]`` negative label
embeddings, all of unit norm; ``s`` the logit scale. Every score is an OOD score: higher = more OOD.
Sums over all labels are the work of `tanl.kernels`; no function ever holds ``[B, C + M]`` at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from . import kernels
from .kernels.reference import LARGEST_EXPONENT
from .kernels.surroundings import product

OTSU_GRID = 100
_HALF_AT_ONCE = 1 << 22  # probabilities of `half_precision_share` that are held at a time, 16 MiB


def shuffled(count: int, seed: int) -> Tensor:
    """The numbers below ``count`` in an order that the seed alone decides, ``[count]`` int64 on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu")


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
    return kernels.prefix_share(id_logits.logsumexp(dim=1), negative_logits, step)


Odds = Callable[[Tensor, Tensor], Tensor]
"""From ratios ``W / I`` ``[B, n]`` and the numbers of negatives ``[n]`` to odds of OOD ``[B, n]``."""


def weighed_prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int, odds: Odds) -> Tensor:
    """The activation-aware share with other odds than ``W_m / I``.

    Args:
        id_lse: log-sum-exp of the ID logits, ``[B]``.
        negative_logits: ``[B, K]``, the most activated label first.
        step: as `negative_share` takes it.
        odds: see `Odds`.

    Returns:
        ``[B]`` in [0, 1]: the mean of ``odds / (1 + odds)`` over the prefixes.
    """
    ratio = (negative_logits - id_lse[:, None]).clamp(max=LARGEST_EXPONENT).exp()
    columns = ratio.shape[1]
    width = step or columns
    parts = torch.nn.functional.pad(ratio, (0, -columns % width)).view(len(ratio), -1, width).sum(dim=2)
    count = torch.arange(1, parts.shape[1] + 1, device=ratio.device, dtype=ratio.dtype) * width
    found = odds(kernels.running_sum(parts), count.clamp(max=columns))
    return (found / (1 + found)).mean(dim=1)


def half_precision_share(z: Tensor, id_labels: Tensor, negatives: Tensor, scale: float, step: int) -> Tensor:
    """The activation-aware share as the published code of TANL scores its final pass: in float16.

    CLIP is built there with float16 weights, and the final pass keeps to its type: embeddings, scaled embeddings,
    logits, every probability, every prefix's ID share and their mean are rounded to float16; sums and products are
    accumulated in float32. Near 1 the ID share has steps of 2^-11, so that confident images tie. The first pass, which
    thresholds and activations come from, is in float32 there.

    Args:
        z: ``[B, D]``.
        id_labels: ``[C, D]``.
        negatives: ``[K, D]``, the most activated label first.
        scale: the logit scale.
        step: as `negative_share` takes it.

    Returns:
        ``[B]`` float32 in [0, 1]: one less the rounded ID share. O(C K / q) a row.
    """
    scaled = _as_half(_as_half(z) * scale)
    ids = _as_half(product(scaled, _as_half(id_labels).T))
    others = _as_half(product(scaled, _as_half(negatives).T))
    top = torch.maximum(ids.amax(dim=1), others.amax(dim=1))[:, None]
    ids, others = (ids - top).exp(), (others - top).exp()
    width = step or others.shape[1]
    parts = torch.nn.functional.pad(others, (0, -others.shape[1] % width)).view(len(z), -1, width)
    totals = ids.sum(dim=1, keepdim=True) + kernels.running_sum(parts.sum(dim=2))  # [B, prefixes]
    shares = torch.empty_like(totals)
    at_once = max(1, _HALF_AT_ONCE // (totals.shape[1] * len(id_labels)))
    for start in range(0, len(z), at_once):
        rows = slice(start, start + at_once)
        shares[rows] = _as_half(_as_half(ids[rows, None] / totals[rows, :, None]).sum(dim=2))
    return 1 - _as_half(shares.mean(dim=1))


def _as_half(values: Tensor) -> Tensor:
    return values.half().float()


def grouped_negative_share(
    z: Tensor, id_labels: Tensor, negatives: Tensor, scale: float, groups: int, odds: Odds | None = None
) -> Tensor:
    """NegLabel's grouped score: the share of the negatives, averaged over consecutive groups.

    Jiang et al., ICLR 2024 (arXiv 2403.20078), section 3.3. The last ``M mod groups`` negatives are dropped.

    Args:
        z: ``[B, D]``.
        id_labels: ``[C, D]``.
        negatives: ``[M, D]``, M >= groups.
        scale: the logit scale.
        groups: the number of groups.
        odds: of OOD, from a group's ratio of masses; None is the ratio itself.

    Returns:
        ``[B]`` in [0, 1].
    """
    size = len(negatives) // groups
    id_lse = kernels.row_lse(z, id_labels, scale)
    logits = torch.stack(
        [kernels.row_lse(z, negatives[g * size : (g + 1) * size], scale) - id_lse for g in range(groups)],
        dim=1,
    )
    if odds is None:
        return torch.sigmoid(logits).mean(dim=1)
    found = odds(logits.clamp(max=LARGEST_EXPONENT).exp(), logits.new_full((groups,), size))
    return (found / (1 + found)).mean(dim=1)


def confident(confidence: Tensor, threshold: Tensor | float, gap: float) -> tuple[Tensor, Tensor]:
    """Which confidences ``[B]`` are sure to be ID, and which to be OOD (TANL, arXiv 2603.25250), ``[B]`` bool each.

    Args:
        confidence: ID confidences.
        threshold: t in [0, 1], a number or one value.
        gap: g: ID above ``t + g (1 - t)``, OOD below ``t - g t``, both strictly.
    """
    exact = threshold.double() if isinstance(threshold, Tensor) else threshold
    return confidence > exact + gap * (1 - exact), confidence < exact - gap * exact


def activation_sums(
    z: Tensor,
    labels: Tensor,
    num_id: int,
    scale: float,
    segments: kernels.Segments,
    memory: list[kernels.StoredExponentials] | None = None,
    *,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums of the negative labels' activations over segments of rows, and the rows' log-sum-exps.

    The activation of a row is ``softmax(scale * z @ labels.T)[num_id:]``, the softmax taken over all labels.
    One pass over the labels gives the exponentials, their sum, and then, from what was kept, the sums. Where the
    backend would rather not keep them (on a GPU beyond D / 2 rows) the product is made twice, the first time without
    the rows whose log-sum-exps are known; where they do not fit into its memory, the rows are taken in even parts.

    Args:
        z: ``[n, D]``, n >= 1.
        labels: ``[C + M, D]``, the ID labels first.
        num_id: C.
        scale: the logit scale.
        segments: ranges ``(first, last + 1)`` of rows of z; they may overlap.
        memory: at most one earlier pass's exponentials, whose memory is used again; afterwards this pass's are there.
        known: log-sum-exps over these labels, of an earlier pass, of the first e rows, ``[e]`` float32; None for none.

    Returns:
        ``[G, M]`` float32: for every segment the sum of its rows' activations; and ``[n - e]`` float32: the
        log-sum-exps of the logits of all labels, of the rows for which they were not known.
    """
    at_once = kernels.stored_rows(z, labels)
    start = 0 if known is None else len(known)
    if at_once == 0:
        fresh = z.new_empty(0) if start == len(z) else kernels.row_lse(z[start:], labels, scale)
        lse = fresh if known is None else torch.cat([known, fresh])
        return kernels.segment_colsum(z, labels, scale, lse, segments)[:, num_id:], fresh
    parts = -(-len(z) // at_once)
    memory = [] if memory is None else memory
    first, sums = 0, None
    found = []
    for rows in z.chunk(parts):
        part = _within(segments, first, len(rows))
        stored = kernels.exp_store(rows, labels, scale, out=memory.pop() if memory else None)
        added = kernels.segment_colsum_stored(stored, part)
        sums = added if sums is None else sums.add_(added)
        found.append(stored.lse)
        first += len(rows)
        memory.append(stored)
    assert sums is not None, "there is a row"
    return sums[:, num_id:], torch.cat(found)[start:]


def _within(segments: kernels.Segments, start: int, count: int) -> kernels.Segments:
    """The segments as ranges of ``count`` rows from the row ``start`` on."""
    if isinstance(segments, Tensor):
        return (segments - start).clamp(0, count)
    return [(min(max(a - start, 0), count), min(max(b - start, 0), count)) for a, b in segments]


def otsu_threshold(scores: Tensor) -> float:
    """`otsu_value` as a number, which waits for it where the scores are on a GPU."""
    return float(otsu_value(scores))


def otsu_value(scores: Tensor) -> Tensor:
    """Otsu's threshold of ID confidences on the grid 0, 0.01, ..., 0.99.

    Minimises ``w0 var0 + w1 var1`` of the split at ``score >= t`` (population variances). Values that leave
    a side empty are skipped; among n equal minima the one at index ``n // 2`` is taken. One histogram of
    counts, sums and sums of squares in float64 replaces a pass over the scores for every t. Nothing waits for the
    scores' device.

    Args:
        scores: ``[n]`` in [0, 1]. What is below -1 does not count.

    Returns:
        The threshold, one float32; 0.5 where no grid value splits the scores (as when all of them are equal).
    """
    grid, at_or_above = _otsu_grid(scores.device)
    moments = kernels.otsu_histogram(scores.detach().float(), grid)[
        :, 1:
    ]  # [3, 101]: count, sum, sum of squares
    above = (moments[:, None] * at_or_above).sum(dim=2)  # [3, 100]
    below = moments.sum(dim=1, keepdim=True) - above
    one_sided = (below[0] < 0.5) | (above[0] < 0.5)
    spread = (_scatter(below) + _scatter(above)).masked_fill(one_sided, torch.inf)
    minimal = spread == spread.min()
    place = minimal.cumsum(dim=0)
    chosen = minimal & (place == place[-1] // 2 + 1)  # exactly one
    return torch.where(chosen, grid[1:], 0.0).sum()


@cache
def _otsu_grid(device: torch.device) -> tuple[Tensor, Tensor]:
    """The grid after a -1, ``[101]``; which bins are not below each of its values, ``[100, 101]`` float64."""
    grid = torch.arange(0, 1, 1 / OTSU_GRID, dtype=torch.float32, device="cpu")[:OTSU_GRID]
    bins = torch.arange(OTSU_GRID + 1, dtype=torch.int64, device="cpu")
    at_or_above = (bins > bins[:-1, None]).double()
    return torch.cat([grid.new_tensor([-1.0]), grid]).to(device), at_or_above.to(device)


def _scatter(moments: Tensor) -> Tensor:
    """Count times population variance from (count, sum, sum of squares), ``[3, n] -> [n]``."""
    count, total, squares = moments
    spread: Tensor = squares - total**2 / count.clamp(min=1)
    return spread
