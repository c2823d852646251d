"""The operations in plain torch: what they mean, on any device, and the truth that other backends are tested against.

See `tanl.kernels` for their arguments. Products run over tiles of labels and are made as labels x rows, which
is the faster way round on CPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .operands import check_segments
from .stored import Segments, StoredExponentials, memory_for
from .surroundings import must_repeat, product, tall_product

# With 256 rows a tile's exponentials are 2 MiB: the next operation finds them in the cache.
TILE_LABELS = 2048
STORED_BYTES = 128 << 20
LEAST_ROWS = 128  # a product with fewer is slow
# exp(75) / (1 + exp(75)) is 1 in float32, and 100 000 such terms still add up without overflow.
LARGEST_EXPONENT = 75.0


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Log-sum-exp over the labels: each tile's, joined."""
    scaled = (z * scale).T
    parts = [tall_product(tile.float(), scaled).logsumexp(dim=0) for tile in torch.split(labels, TILE_LABELS)]
    return torch.stack(parts).logsumexp(dim=0)


def stored_rows(z: Tensor, labels: Tensor) -> int:
    """As many as fit into 128 MiB, and at least 128, for the product's sake."""
    return max(LEAST_ROWS, STORED_BYTES // (4 * len(labels)))


def exp_store(
    z: Tensor, labels: Tensor, scale: float, out: StoredExponentials | None = None
) -> StoredExponentials:
    """The values are ``[N, n]``: ``exp(logit - the tile's maximum)``."""
    size = len(labels) * len(z)
    values = memory_for(size, z, out)[:size].view(len(labels), len(z))
    scaled = (z * scale).T
    tiles = list(zip(torch.split(labels, TILE_LABELS), torch.split(values, TILE_LABELS), strict=True))
    maxima = z.new_empty(len(tiles), len(z))
    totals = torch.empty_like(maxima)
    for t, (tile, kept) in enumerate(tiles):
        logits = tall_product(tile.float(), scaled, out=kept)
        torch.amax(logits, dim=0, out=maxima[t])
        torch.sub(logits, maxima[t], out=kept)
        torch.sum(kept.exp_(), dim=0, out=totals[t])
    lse = (maxima + totals.log()).logsumexp(dim=0)
    return StoredExponentials("reference", values, maxima, lse, len(labels))


def segment_colsum_stored(stored: StoredExponentials, segments: Segments) -> Tensor:
    """Each tile times its rows' factors, summed over the segments by one product."""
    members = _members(segments, stored.lse)
    factors = (stored.maxima - stored.lse).exp()  # [tiles, n]
    sums = members.new_empty(stored.num_labels, len(segments))
    for t, (kept, into) in enumerate(
        zip(torch.split(stored.values, TILE_LABELS), torch.split(sums, TILE_LABELS), strict=True)
    ):
        product(kept, (members * factors[t]).T, out=into)
    return sums.T


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """The softmax rows of a tile, summed over the segments by one product."""
    members = _members(segments, lse).T
    scaled = (z * scale).T
    sums = [
        product((tall_product(tile.float(), scaled) - lse).exp(), members)
        for tile in torch.split(labels, TILE_LABELS)
    ]
    return torch.cat(sums).T


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """One cumulative sum in place of a softmax for every prefix."""
    ratio = (negative_logits - id_lse[:, None]).clamp(max=LARGEST_EXPONENT).exp()  # [B, K]
    if step == 0:
        total = ratio.sum(dim=1)
        return total / (1 + total)
    if step > 1:
        ratio = torch.nn.functional.pad(ratio, (0, -ratio.shape[1] % step))
        ratio = ratio.view(len(ratio), -1, step).sum(dim=2)
    prefix = running_sum(ratio)
    return (prefix / (1 + prefix)).mean(dim=1)


def running_sum(values: Tensor) -> Tensor:
    """``values.cumsum(dim=1)`` of ``[B, K]``. For a GPU torch has none whose order is fixed: there by doubling."""
    if not must_repeat(values.device):
        return values.cumsum(dim=1)
    reach = 1
    while reach < values.shape[1]:
        values = torch.cat([values[:, :reach], values[:, reach:] + values[:, :-reach]], dim=1)
        reach *= 2
    return values


def otsu_histogram(scores: Tensor, grid: Tensor) -> Tensor:
    """Counts by weight 1, x and x squared, on a GPU in no fixed order but where torch is told to repeat itself."""
    bins = torch.bucketize(scores, grid, right=True)  # score >= grid[k] exactly where bin > k
    exact = scores.double()
    moments = torch.stack([torch.ones_like(exact), exact, exact**2])
    return moments.new_zeros(3, len(grid) + 1).index_add_(1, bins, moments)


def stable_topk(values: Tensor, k: int) -> Tensor:
    """Sort what is not below the k-th value, keeping the order of equal ones."""
    k = min(k, len(values))
    if k < 1:
        raise ValueError(f"there must be at least one value to choose, not {k} of {len(values)}")
    if bool(values.isnan().any()):
        raise ValueError("values to choose from must not be NaN")
    smallest = values.topk(k).values[-1]
    candidates = (values >= smallest).nonzero()[:, 0]
    order = values[candidates].sort(descending=True, stable=True).indices
    top: Tensor = candidates[order[:k]]
    return top


def _members(segments: Segments, like: Tensor) -> Tensor:
    """``[G, n]``: 1 where a row lies in a segment."""
    check_segments(segments, len(like))
    bounds = torch.as_tensor(segments, dtype=torch.int64, device=like.device).view(-1, 2, 1)
    row = torch.arange(len(like), dtype=torch.int64, device=like.device)
    return ((bounds[:, 0] <= row) & (row < bounds[:, 1])).to(like.dtype)
