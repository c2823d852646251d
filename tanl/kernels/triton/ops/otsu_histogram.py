"""Counts, sums and sums of squares of scores between grid values, one bin a program."""
# mypy: allow-incomplete-defs, allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...operands import operand, plain
from ..shapes import OTSU_SCORES, STAGES, WARPS


@triton.jit(do_not_specialize=["n", "num_edges"])
def otsu_histogram_kernel(scores, grid, moments, n, num_edges, SCORES: tl.constexpr):
    """The three moments of one bin, in float64. Every program reads all scores: no atomics, one order.

    ``scores [n]``, ``grid [num_edges]``, ``moments [3, num_edges + 1]``. Grid: (num_edges + 1).
    """
    k = tl.program_id(0)
    bins = num_edges + 1
    lower = tl.load(grid + k - 1, mask=k > 0, other=float("-inf"))
    upper = tl.load(grid + k, mask=k < num_edges, other=float("inf"))
    count = tl.zeros((SCORES,), tl.float64)
    total = tl.zeros((SCORES,), tl.float64)
    squares = tl.zeros((SCORES,), tl.float64)
    for first in range(0, n, SCORES):
        index = first + tl.arange(0, SCORES)
        score = tl.load(scores + index, mask=index < n, other=0.0)
        # "not below", so that the last bin takes NaN, as torch.bucketize has it
        mine = (index < n) & ((score < lower) == 0) & ((score < upper) | (k == num_edges))
        exact = tl.where(mine, score, 0.0).to(tl.float64)
        count += mine.to(tl.float64)
        total += exact
        squares += exact * exact
    tl.store(moments + k, tl.sum(count, 0))
    tl.store(moments + bins + k, tl.sum(total, 0))
    tl.store(moments + 2 * bins + k, tl.sum(squares, 0))


def otsu_histogram(scores: Tensor, grid: Tensor) -> Tensor:
    """See `tanl.kernels.otsu_histogram`."""
    bins = len(grid) + 1
    moments = torch.empty(3, bins, dtype=torch.float64, device=scores.device)
    otsu_histogram_kernel[(bins,)](
        operand(plain(scores), "scores", (len(scores),), torch.float32, scores.device),
        operand(plain(grid), "grid", (len(grid),), torch.float32, scores.device),
        operand(moments, "moments", (3, bins), torch.float64, scores.device),
        len(scores),
        len(grid),
        SCORES=OTSU_SCORES,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return moments
