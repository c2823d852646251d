"""Sums of softmax rows over segments, from stored exponentials."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand
from ...stored import Segments, StoredExponentials
from ..shapes import STAGES, STORED_ROWS, WARPS
from .segments import bounds_of


@triton.jit(do_not_specialize=["n", "num_labels"])
def segment_colsum_stored_kernel(
    values,
    maxima,
    lse,
    segments,
    sums,
    n,
    num_labels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Column sums of ``values * exp(maximum - lse)`` over one segment of rows, for one tile of labels.

    ``values [tiles, n, COLUMNS]``, ``maxima [tiles, n]``, ``lse [n]``, ``segments [G, 2]``, ``sums [G, num_labels]``.
    Grid: (tiles * G), the tiles of one segment side by side. Every sum has one owner: no atomics, one order.
    """
    tiles = tl.cdiv(num_labels, COLUMNS)
    tile = tl.program_id(0) % tiles
    segment = tl.program_id(0) // tiles
    first = tl.maximum(tl.load(segments + 2 * segment), 0)
    stop = tl.minimum(tl.load(segments + 2 * segment + 1), n)
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    corner = tile.to(tl.int64) * n
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, stop, ROWS):
        there = start + row < stop
        maximum = tl.load(maxima + corner + start + row, mask=there, other=float("-inf"))
        row_lse = tl.load(lse + start + row, mask=there, other=0.0)
        kept = tl.load(
            values + (corner + start) * COLUMNS + row[:, None] * COLUMNS + column[None, :],
            mask=there[:, None],
            other=0.0,
        )
        total += kept.to(tl.float32) * tl.exp(maximum - row_lse)[:, None]
    label = tile * COLUMNS + column
    tl.store(
        sums + segment.to(tl.int64) * num_labels + label,
        tl.sum(total, 0),
        mask=label < num_labels,
    )


def segment_colsum_stored(stored: StoredExponentials, segments: Segments) -> Tensor:
    """See `tanl.kernels.segment_colsum_stored`."""
    tiles, n, columns = stored.values.shape
    device = stored.values.device
    bounds = bounds_of(segments, n, device)
    sums = torch.empty(len(bounds), stored.num_labels, dtype=torch.float32, device=device)
    segment_colsum_stored_kernel[(tiles * len(bounds),)](
        operand(stored.values, "values", (tiles, n, columns), stored.values.dtype, device),
        operand(stored.maxima, "maxima", (tiles, n), torch.float32, device),
        operand(stored.lse, "lse", (n,), torch.float32, device),
        operand(bounds, "segments", (len(bounds), 2), torch.int32, device),
        operand(sums, "sums", (len(bounds), stored.num_labels), torch.float32, device),
        n,
        stored.num_labels,
        ROWS=STORED_ROWS,
        COLUMNS=columns,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return sums
