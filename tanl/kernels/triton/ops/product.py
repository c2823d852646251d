"""The product that three kernels begin with: a tile of logits."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import label_dtype, operand, plain
from ..shapes import ProductShape

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


def passed(parts: Tensor, labels: Tensor, shape: ProductShape) -> tuple[object, object]:
    """What `product_operands` gave as a shape's kernels take it: as it is, or as descriptors of blocks."""
    if not shape.descriptors:
        return parts, labels
    from triton.tools.tensor_descriptor import TensorDescriptor

    return (
        TensorDescriptor.from_tensor(parts, [shape.rows, shape.depth]),
        TensorDescriptor.from_tensor(labels, [shape.columns, shape.depth]),
    )


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
    PARTS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """``scale * z @ labels.T`` of one tile, ``[ROWS, COLUMNS]`` float32; zeros beyond n and num_labels.

    ``z`` as `product_operands` gives it, ``labels [num_labels, D]``, both float16 or both float32. float16 operands
    take the tensor cores, which accumulate in float32; a row comes as two of them, ``[n, 2 D]``, and meets the labels
    twice (PARTS). The scale comes last, in float32. Offsets are 64 bits wide to the tile's corner, and 32 within the
    tile. With DESCRIPTORS both come as tensor descriptors, whose blocks the memory unit fetches by itself.
    """
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    if DESCRIPTORS:
        for part in tl.static_range(0, PARTS):
            for k in range(0, D, DEPTH):  # labels are 0 beyond D, whatever z is there
                rows = z.load([first_row, part * D + k])
                columns = labels.load([first_label, k])
                product = tl.dot(rows, columns.T, product, input_precision=PRECISION)
    else:
        row = tl.arange(0, ROWS)
        column = tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        row_there = (first_row + row < n)[:, None]
        label_there = (first_label + column < num_labels)[None, :]
        width: tl.constexpr = PARTS * D
        z_tile = z + tl.full((), first_row, tl.int64) * width + row[:, None] * width + depth[None, :]
        label_tile = labels + first_label.to(tl.int64) * D + column[None, :] * D + depth[:, None]
        for part in tl.static_range(0, PARTS):
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
