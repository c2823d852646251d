"""The product that three kernels begin with: a tile of logits."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def logits_tile(
    z,
    labels,
    first_row,
    first_label,
    n,
    num_labels,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``scale * z @ labels.T`` of one tile, ``[ROWS, COLUMNS]`` float32; zeros beyond n and num_labels.

    ``z [n, D]`` and ``labels [num_labels, D]``, both float16 or both float32. float16 operands take the tensor cores,
    which accumulate in float32. The scale comes last, in float32: a scaled float16 operand would be rounded again.
    Offsets are 64 bits wide to the tile's corner, and 32 within the tile.
    """
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    row_there = (first_row + row < n)[:, None]
    label_there = (first_label + column < num_labels)[None, :]
    z_tile = z + first_row.to(tl.int64) * D + row[:, None] * D + depth[None, :]
    label_tile = labels + first_label.to(tl.int64) * D + column[None, :] * D + depth[:, None]
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, D, DEPTH):
        if D % DEPTH == 0:  # settled when compiled
            a = tl.load(z_tile + k, mask=row_there, other=0.0)
            b = tl.load(label_tile + k, mask=label_there, other=0.0)
        else:
            deep = k + depth < D
            a = tl.load(z_tile + k, mask=row_there & deep[None, :], other=0.0)
            b = tl.load(label_tile + k, mask=label_there & deep[:, None], other=0.0)
        product = tl.dot(a, b, product, input_precision=PRECISION)
    return product * scale
