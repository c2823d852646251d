"""One pass over the labels that keeps its exponentials, in block floating point."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand
from ...stored import StoredExponentials, memory_for
from ..shapes import product_shape
from .product import factor, logits_tile, passed, product_operands


@triton.jit(do_not_specialize=["n", "num_labels"])
def exp_store_kernel(
    z,
    labels,
    values,
    maxima,
    totals,
    n,
    num_labels,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """``exp(logit - the row's maximum in the tile)``, that maximum, and the row's sum, of one tile.

    ``values [tiles, n, COLUMNS]``, so that rows are aligned whatever the number of labels, with zeros beyond the last;
    ``maxima, totals [tiles, n]``. Grid: (tiles * blocks of rows), the blocks of one tile of labels side by side.
    """
    blocks = tl.cdiv(n, ROWS)
    tile = tl.program_id(0) // blocks
    first_row = tl.program_id(0) % blocks * ROWS
    first_label = tile * COLUMNS
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    row_there = first_row + row < n
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
    logits = tl.where((first_label + column < num_labels)[None, :], logits, float("-inf"))
    maximum = tl.max(logits, 1)
    exponentials = tl.exp(logits - maximum[:, None])
    corner = tile.to(tl.int64) * n + first_row
    tl.store(maxima + corner + row, maximum, mask=row_there)
    tl.store(totals + corner + row, tl.sum(exponentials, 1), mask=row_there)
    tl.store(
        values + corner * COLUMNS + row[:, None] * COLUMNS + column[None, :],
        exponentials.to(values.dtype.element_ty),
        mask=row_there[:, None],
    )


def exp_store(
    z: Tensor, labels: Tensor, scale: float, out: StoredExponentials | None = None
) -> StoredExponentials:
    """See `tanl.kernels.exp_store`."""
    shape = product_shape(labels)
    n = len(z)
    blocks = triton.cdiv(n, shape.rows)
    tiles = triton.cdiv(len(labels), shape.columns)
    # float32: float16 would halve the memory, and cost mean activations their fourth digit.
    size = tiles * n * shape.columns
    values = memory_for(size, z, out)[:size].view(tiles, n, shape.columns)
    parts, labels = product_operands(z, labels)
    maxima, totals = torch.empty(2, tiles, n, dtype=torch.float32, device=z.device)
    exp_store_kernel[(tiles * blocks,)](
        *passed(parts, labels, shape),
        operand(values, "values", (tiles, n, shape.columns), torch.float32, z.device),
        operand(maxima, "maxima", (tiles, n), torch.float32, z.device),
        operand(totals, "totals", (tiles, n), torch.float32, z.device),
        n,
        len(labels),
        scale / factor(labels),
        **shape.constants(labels),
        **shape.options,
    )
    lse = (maxima + totals.log()).logsumexp(dim=0)
    return StoredExponentials("triton", values, maxima, lse, len(labels))
