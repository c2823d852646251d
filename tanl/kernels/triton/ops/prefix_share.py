"""Activation-aware share of the negatives, one row a program."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand, plain
from ...reference import LARGEST_EXPONENT
from ..shapes import PREFIX_COLUMNS, STAGES, WARPS


@triton.jit(do_not_specialize=["num_columns", "step"])
def prefix_share_kernel(
    id_lse, logits, shares, num_columns, step, LARGEST: tl.constexpr, COLUMNS: tl.constexpr
):
    """Mean of ``W_m / (1 + W_m)`` over the prefixes of one row, by a running sum carried from tile to tile.

    ``id_lse, shares [B]``, ``logits [B, num_columns]``. Grid: (B).
    """
    row = tl.program_id(0)
    reference = tl.load(id_lse + row)
    logits += row.to(tl.int64) * num_columns
    before = tl.zeros((), tl.float32)
    total = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, num_columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        logit = tl.load(logits + column, mask=column < num_columns, other=float("-inf"))
        exponent = tl.minimum(logit - reference, LARGEST, propagate_nan=tl.PropagateNan.ALL)
        ratio = tl.exp(exponent)
        prefix = before + tl.cumsum(ratio, 0)
        is_end = ((column + 1) % step == 0) | (column == num_columns - 1)
        total += tl.where((column < num_columns) & is_end, prefix / (1 + prefix), 0.0)
        before += tl.sum(ratio, 0)
    tl.store(shares + row, tl.sum(total, 0) / tl.cdiv(num_columns, step))


def prefix_share(id_lse: Tensor, negative_logits: Tensor, step: int) -> Tensor:
    """See `tanl.kernels.prefix_share`."""
    rows, num_columns = negative_logits.shape
    if num_columns == 0 or step < 0:
        raise ValueError(f"there must be a negative and no step below 0, not {num_columns} and {step}")
    device = id_lse.device
    shares = torch.empty(rows, dtype=torch.float32, device=device)
    prefix_share_kernel[(rows,)](
        operand(plain(id_lse), "id_lse", (rows,), torch.float32, device),
        operand(plain(negative_logits), "negative_logits", (rows, num_columns), torch.float32, device),
        operand(shares, "shares", (rows,), torch.float32, device),
        num_columns,
        step or num_columns,
        LARGEST=LARGEST_EXPONENT,
        COLUMNS=PREFIX_COLUMNS,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return shares
