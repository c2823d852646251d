"""Sums of softmax rows over segments, the product made anew.

Segments may overlap, but each row is multiplied once: the rows are cut at all bounds of segments into pieces, and a
piece longer than a block of rows into several. The kernel sums over these parts; a segment is a run of them.
"""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import check_segments, operand
from ...stored import Segments
from ..shapes import SLOT_ROWS, product_shape
from .product import factor, logits_tile, product_operands


@triton.jit(do_not_specialize=["num_rows", "num_labels"])
def segment_colsum_kernel(
    z,
    labels,
    lse,
    slots,
    first_parts,
    sums,
    num_rows,
    num_labels,
    scale,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOT: tl.constexpr,
):
    """Column sums of ``exp(logit - lse)`` over the parts of one block of rows, for one tile of labels.

    Rows are first summed in slots of SLOT, whatever the parts, and then the slots over each part: a part costs a select
    and an addition for every slot, where on the rows themselves it would for every row.

    ``z [num_rows, D]`` and ``lse [num_rows]``, whole blocks, padding having ``lse = inf``; ``slots [P, 2]``: first and
    last + 1 slot of each part in its block; ``first_parts [blocks + 1]``: the first part of each block;
    ``sums [P, num_labels]``. Grid: (tiles * blocks), the blocks of one tile of labels side by side.
    """
    blocks = num_rows // ROWS
    block = tl.program_id(0) % blocks
    first_row = block * ROWS
    first_label = tl.program_id(0) // blocks * COLUMNS
    logits = logits_tile(
        z, labels, first_row, first_label, num_rows, num_labels, scale, D, ROWS, COLUMNS, DEPTH, PRECISION
    )
    row_lse = tl.load(lse + first_row + tl.arange(0, ROWS))
    probabilities = tl.exp(logits - row_lse[:, None])
    slot = tl.arange(0, ROWS // SLOT)
    slot_sums = tl.sum(tl.reshape(probabilities, (ROWS // SLOT, SLOT, COLUMNS)), 1)
    label = first_label + tl.arange(0, COLUMNS)
    for part in range(tl.load(first_parts + block), tl.load(first_parts + block + 1)):
        first = tl.load(slots + 2 * part)
        stop = tl.load(slots + 2 * part + 1)
        inside = (slot >= first) & (slot < stop)
        total = tl.sum(tl.where(inside[:, None], slot_sums, 0.0), 0)
        row = sums + tl.full((), part, tl.int64) * num_labels
        tl.store(row + label, total, mask=label < num_labels)


def segment_colsum(z: Tensor, labels: Tensor, scale: float, lse: Tensor, segments: Segments) -> Tensor:
    """See `tanl.kernels.segment_colsum`."""
    check_segments(segments, len(z))
    shape = product_shape(labels)
    layout = lay_out(segments, shape.rows)
    rows = torch.tensor(layout.rows, dtype=torch.int64, device=z.device)
    padding = torch.tensor(layout.padding, dtype=torch.bool, device=z.device)
    parts, labels = product_operands(z[rows], labels)
    lse = lse[rows].masked_fill(padding, torch.inf)
    slots = torch.tensor(layout.slots, dtype=torch.int32, device=z.device).view(-1, 2)
    first_parts = torch.tensor(layout.first_parts, dtype=torch.int32, device=z.device)
    sums = torch.empty(len(slots), len(labels), dtype=torch.float32, device=z.device)
    tiles = triton.cdiv(len(labels), shape.columns)
    segment_colsum_kernel[(tiles * len(rows) // shape.rows,)](
        parts,
        labels,
        operand(lse, "lse", (len(rows),), torch.float32, z.device),
        operand(slots, "slots", (len(layout.slots), 2), torch.int32, z.device),
        operand(first_parts, "first_parts", (len(rows) // shape.rows + 1,), torch.int32, z.device),
        operand(sums, "sums", (len(slots), len(labels)), torch.float32, z.device),
        len(rows),
        len(labels),
        scale / factor(labels),
        **shape.constants(labels.shape[1]),
        SLOT=SLOT_ROWS,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    if layout.runs == [(part, part + 1) for part in range(len(layout.slots))]:
        return sums
    members = [part for first, stop in layout.runs for part in range(first, stop)]
    starts = [0]
    for first, stop in layout.runs[:-1]:
        starts.append(starts[-1] + stop - first)
    return torch.nn.functional.embedding_bag(
        torch.tensor(members, dtype=torch.int64, device=z.device),
        sums,
        torch.tensor(starts, dtype=torch.int64, device=z.device),
        mode="sum",
    )


@dataclass(frozen=True)
class Layout:
    """Rows in blocks such that every part lies in one block and fills whole slots of it, and where the parts are.

    Attributes:
        rows: which row is at each place, whole blocks; one of the same part's where there is none.
        padding: for each place, whether there is none.
        slots: first and last + 1 slot of each part in its block.
        first_parts: the first part of each block, then the number of parts.
        runs: first and last + 1 part of each segment.
    """

    rows: list[int]
    padding: list[bool]
    slots: list[tuple[int, int]]
    first_parts: list[int]
    runs: list[tuple[int, int]]


def lay_out(segments: Segments, block: int) -> Layout:
    """Arrange the rows of segments for the kernel. Rows in no segment are left out.

    Args:
        segments: ranges of rows.
        block: rows to a block, a multiple of SLOT_ROWS.
    """
    bounds = sorted({bound for segment in segments for bound in segment})
    parts = [
        (start, min(start + block, stop))
        for first, stop in pairwise(bounds)
        if any(a <= first and stop <= b for a, b in segments)
        for start in range(first, stop, block)
    ]
    layout = Layout([], [], [], [], [])
    for number, (first, stop) in enumerate(parts):
        padded = -(-(stop - first) // SLOT_ROWS) * SLOT_ROWS
        if padded > -len(layout.rows) % block:  # it does not fit into what is left of the block
            _pad(layout, -len(layout.rows) % block)
            layout.first_parts.append(number)
        slot = len(layout.rows) % block // SLOT_ROWS
        layout.slots.append((slot, slot + padded // SLOT_ROWS))
        layout.rows.extend(range(first, stop))
        layout.padding.extend([False] * (stop - first))
        _pad(layout, padded - (stop - first))
    _pad(layout, -len(layout.rows) % block)
    layout.first_parts.append(len(parts))
    for first, stop in segments:
        inside = [p for p, (a, b) in enumerate(parts) if first <= a and b <= stop]
        layout.runs.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return layout


def _pad(layout: Layout, count: int) -> None:
    layout.rows.extend(layout.rows[-1:] * count)
    layout.padding.extend([True] * count)
