"""Log-sum-exp of the logits along the labels, which are split among programs."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand
from ..shapes import product_shape
from .product import factor, logits_tile, passed, product_operands

# Enough for some to each multiprocessor. A constant, not a property of the device, so that the order of the
# additions, and with it the last digit, does not hang on it.
PROGRAMS = 512


@triton.jit(do_not_specialize=["n", "num_labels", "tiles_per_split"])
def row_lse_kernel(
    z,
    labels,
    maxima,
    totals,
    n,
    num_labels,
    tiles_per_split,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """The maximum logit, and the sum of exponentials relative to it, of a block of rows over one split of the labels.

    ``maxima, totals [splits, n]``. Grid: (blocks of rows, splits).
    """
    first_row = tl.program_id(0) * ROWS
    split = tl.program_id(1)
    row = first_row + tl.arange(0, ROWS)
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    stop = tl.minimum((split + 1) * tiles_per_split, tl.cdiv(num_labels, COLUMNS))
    for tile in range(split * tiles_per_split, stop):
        first_label = tile * COLUMNS
        logits = logits_tile(
            z,
            labels,
            first_row,
            first_label,
            n,
            num_labels,
            scale,
            D,
            ROWS,
            COLUMNS,
            DEPTH,
            PRECISION,
            PARTS,
            DESCRIPTORS,
        )
        label_there = first_label + tl.arange(0, COLUMNS) < num_labels
        logits = tl.where(label_there[None, :], logits, float("-inf"))
        higher = tl.maximum(maximum, tl.max(logits, 1))
        total = total * tl.exp(maximum - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        maximum = higher
    tl.store(maxima + split * n + row, maximum, mask=row < n)
    tl.store(totals + split * n + row, total, mask=row < n)


def row_lse(z: Tensor, labels: Tensor, scale: float) -> Tensor:
    """See `tanl.kernels.row_lse`."""
    shape = product_shape(labels)
    n = len(z)
    blocks = triton.cdiv(n, shape.rows)
    tiles = triton.cdiv(len(labels), shape.columns)
    tiles_per_split = triton.cdiv(tiles, max(1, PROGRAMS // max(1, blocks)))
    splits = triton.cdiv(tiles, tiles_per_split)
    parts, labels = product_operands(z, labels)
    maxima, totals = torch.empty(2, splits, n, dtype=torch.float32, device=z.device)
    row_lse_kernel[(blocks, splits)](
        *passed(parts, labels, shape),
        operand(maxima, "maxima", (splits, n), torch.float32, z.device),
        operand(totals, "totals", (splits, n), torch.float32, z.device),
        n,
        len(labels),
        tiles_per_split,
        scale / factor(labels),
        **shape.constants(labels),
        **shape.options,
    )
    lse: Tensor = (maxima + totals.log()).logsumexp(dim=0)
    return lse
