"""The product that three kernels begin with: a tile of logits."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import label_dtype, operand, plain

_FACTOR = 2048.0  # brings what float16 cannot hold of a component of a unit vector into its range


def product_operands(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What `logits_tile` takes: the rows in the labels' dtype, and the labels.

    float16 holds 11 bits of a component, and rounding rows to it would move logits at CLIP's scale by a thousandth. So
    beside float16 labels a row ``z [D]`` becomes two, ``2048 z`` rounded and what that leaves, 22 bits together:
    ``[n, 2 D]``. `factor` is what logits are then too large by.
    """
    dtype, (n, dim) = label_dtype(labels), z.shape
    z = operand(plain(z), "z", (n, labels.shape[1]), torch.float32, labels.device)
    if dtype is torch.float16:
        rounded = (z * _FACTOR).half()
        z, dim = torch.cat([rounded, (z * _FACTOR - rounded).half()], dim=1), 2 * dim
    labels = operand(plain(labels), "labels", tuple(labels.shape), dtype, labels.device)
    return operand(z, "z", (n, dim), dtype, labels.device), labels


def factor(labels: Tensor) -> float:
    """What the product of `product_operands` is to be divided by."""
    return _FACTOR if labels.dtype is torch.float16 else 1.0


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

    ``z`` as `product_operands` gives it, ``labels [num_labels, D]``, both float16 or both float32. float16 operands
    take the tensor cores, which accumulate in float32; a row comes as two of them, ``[n, 2 D]``, and meets the labels
    twice. The scale comes last, in float32. Offsets are 64 bits wide to the tile's corner, and 32 within the tile.
    """
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    row_there = (first_row + row < n)[:, None]
    label_there = (first_label + column < num_labels)[None, :]
    parts: tl.constexpr = 2 if z.dtype.element_ty == tl.float16 else 1
    z_tile = z + tl.full((), first_row, tl.int64) * (parts * D) + row[:, None] * (parts * D) + depth[None, :]
    label_tile = labels + first_label.to(tl.int64) * D + column[None, :] * D + depth[:, None]
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for part in tl.static_range(0, parts):
        for k in range(0, D, DEPTH):
            if D % DEPTH == 0:  # settled when compiled
                a = tl.load(z_tile + part * D + k, mask=row_there, other=0.0)
                b = tl.load(label_tile + k, mask=label_there, other=0.0)
            else:
                deep = k + depth < D
                a = tl.load(z_tile + part * D + k, mask=row_there & deep[None, :], other=0.0)
                b = tl.load(label_tile + k, mask=label_there & deep[:, None], other=0.0)
            product = tl.dot(a, b, product, input_precision=PRECISION)
    return product * scale
