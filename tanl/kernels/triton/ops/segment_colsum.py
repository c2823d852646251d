"""Sums of softmax rows over segments, the product made anew.

A segment is a row of a 0/1 matrix, and the sums are that matrix times the softmax rows: a second product, of the
tile that the first one left in registers. Nothing has to be laid out for it, whatever the segments are.

Tensor cores take float16, so a probability becomes two of them: ``2^15 p`` rounded, and ``2^11`` times what that
leaves, 22 bits together down to 2e-9, and below that nothing is off by more than 1e-15.
"""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand
from ...stored import Segments
from ..shapes import SEGMENTS, product_shape
from .product import factor, logits_tile, passed, product_operands
from .segments import bounds_of

SCALE = tl.constexpr(32768.0)
LOW = tl.constexpr(2048.0)


@triton.jit(do_not_specialize=["n", "num_labels", "num_segments"])
def segment_colsum_kernel(
    z,
    labels,
    lse,
    segments,
    sums,
    n,
    num_labels,
    num_segments,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    PARTS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SEGMENTS: tl.constexpr,
):
    """Column sums of ``exp(logit - lse)`` over SEGMENTS segments of rows, for one tile of labels.

    ``z`` and ``labels`` as `logits_tile` takes them, ``lse [n]``, ``segments [num_segments, 2]``: first and last + 1
    row; ``sums [num_segments, num_labels]``. Grid: (tiles, groups of segments). Every sum has one owner: no
    atomics, one order.
    """
    first_label = tl.program_id(0) * COLUMNS
    segment = tl.program_id(1) * SEGMENTS + tl.arange(0, SEGMENTS)
    there = segment < num_segments
    first = tl.load(segments + 2 * segment, mask=there, other=0)
    stop = tl.load(segments + 2 * segment + 1, mask=there, other=0)
    total = tl.zeros((SEGMENTS, COLUMNS), tl.float32)
    for first_row in range(0, n, ROWS):
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
        row = first_row + tl.arange(0, ROWS)
        row_lse = tl.load(lse + row, mask=row < n, other=float("inf"))
        scaled = tl.exp(logits - row_lse[:, None]) * SCALE
        high = scaled.to(tl.float16)
        low = ((scaled - high.to(tl.float32)) * LOW).to(tl.float16)
        inside = ((row[None, :] >= first[:, None]) & (row[None, :] < stop[:, None])).to(tl.float16)
        total = tl.dot(inside, high, total)
        total = tl.dot(inside * (1.0 / LOW), low, total)
    label = first_label + tl.arange(0, COLUMNS)
    tl.store(
        sums + segment.to(tl.int64)[:, None] * num_labels + label[None, :],
        total / SCALE,
        mask=there[:, None] & (label < num_labels)[None, :],
    )


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """See `tanl.kernels.segment_colsum`."""
    shape = product_shape(labels)
    n = len(z)
    bounds = bounds_of(segments, n, z.device)
    parts, labels = product_operands(z, labels)
    sums = torch.empty(len(bounds), len(labels), dtype=torch.float32, device=z.device)
    segment_colsum_kernel[(triton.cdiv(len(labels), shape.columns), triton.cdiv(len(bounds), SEGMENTS))](
        *passed(parts, labels, shape),
        operand(lse, "lse", (n,), torch.float32, z.device),
        operand(bounds, "segments", (len(bounds), 2), torch.int32, z.device),
        operand(sums, "sums", (len(bounds), len(labels)), torch.float32, z.device),
        n,
        len(labels),
        len(bounds),
        scale / factor(labels),
        **shape.constants(labels),
        SEGMENTS=SEGMENTS,
        **shape.options,
    )
    return sums
