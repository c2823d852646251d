"""One pass over the labels that keeps its exponentials, in block floating point."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...stored import StoredExponentials
from ..shapes import product_shape
from .product import logits_tile

# float16 would halve the memory, and costs mean activations their fourth digit.
STORED = torch.float32


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
        z, labels, first_row, first_label, n, num_labels, scale, D, ROWS, COLUMNS, DEPTH, PRECISION
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
    values = _memory(tiles, n, shape.columns, z.device, out)
    maxima = torch.empty(tiles, n, device=z.device)
    totals = torch.empty(tiles, n, device=z.device)
    exp_store_kernel[(tiles * blocks,)](
        z.to(labels.dtype).contiguous(),
        labels.contiguous(),
        values,
        maxima,
        totals,
        n,
        len(labels),
        scale,
        D=labels.shape[1],
        ROWS=shape.rows,
        COLUMNS=shape.columns,
        DEPTH=shape.depth,
        PRECISION=shape.precision,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    lse = (maxima + totals.log()).logsumexp(dim=0)
    return StoredExponentials("triton", values, maxima, lse, len(labels))


def _memory(
    tiles: int, n: int, columns: int, device: torch.device, earlier: StoredExponentials | None
) -> Tensor:
    """The earlier result's memory where it suffices; else new."""
    if earlier is not None and earlier.values.device == device and earlier.values.dtype == STORED:
        held = earlier.values.untyped_storage().nbytes()
        if held >= tiles * n * columns * STORED.itemsize:
            return earlier.values.as_strided((tiles, n, columns), (n * columns, columns, 1), 0)
    return torch.empty(tiles, n, columns, dtype=STORED, device=device)
