"""The labels nearest to an embedding, exactly.

Everything here is per row: what a query finds does not depend, in any bit, on the queries beside it. Matrix
products differ in their last bits with the shape of the matrices, so they are made in blocks of one shape.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.surroundings import product, undisturbed

QUERIES = 1024
"""Queries that are searched at once."""

_ROWS = 64  # rows of a product; the last block is filled up
_TILE = 2048  # labels of a product
_WIDE = 16_384  # labels whose cosines are kept at once


class Neighbours(NamedTuple):
    """Labels near to B queries.

    Attributes:
        cosines: ``[B, k]`` float32, the largest first, equal ones in the order of their rows.
        rows: ``[B, k]`` int64: which labels they are.
    """

    cosines: Tensor
    rows: Tensor


@undisturbed
def nearest(z: Tensor, labels: Tensor, k: int, struck: Tensor | None = None) -> Neighbours:
    """The ``k`` labels nearest to each query, exactly: every label is looked at, a tile of them at a time.

    Args:
        z: ``[B, D]`` float32.
        labels: ``[N, D]`` float32 or float16, on z's device.
        k: how many, at most the labels there are, less those that are struck out.
        struck: ``[N]`` bool: labels that are not to be found.

    Returns:
        Cosines and rows, ``[B, k]`` each. ``B x 16 384`` cosines are held at once, whatever N.
    """
    parts = [_nearest(part, labels, k, struck) for part in torch.split(z, QUERIES)]
    return Neighbours(*(torch.cat(column) for column in zip(*parts, strict=True)))


def products(z: Tensor, labels: Tensor, out: Tensor | None = None) -> Tensor:
    """``z @ labels.T`` in float32, ``[B, N]``, each row the same bits whatever rows are beside it.

    Args:
        z: ``[B, D]`` float32.
        labels: ``[N, D]`` float32 or float16.
        out: ``[b, N]``, written to; b is B, filled up to a whole number of blocks of 64 rows.
    """
    blocks = [_filled_up(block) for block in torch.split(z, _ROWS)]
    if out is None:
        out = z.new_empty(_ROWS * len(blocks), len(labels))
    for start in range(0, len(labels), _TILE):
        tile = labels[start : start + _TILE].float().T
        for i, block in enumerate(blocks):
            product(block, tile, out=out[i * _ROWS : (i + 1) * _ROWS, start : start + _TILE])
    return out[: len(z)]


def _nearest(z: Tensor, labels: Tensor, k: int, struck: Tensor | None) -> Neighbours:
    """See `nearest`. Of later tiles only what reaches the k-th best so far is sorted."""
    width = min(_WIDE, len(labels))
    buffer = z.new_empty(-(-len(z) // _ROWS) * _ROWS, width)
    best, rows = z.new_empty(len(z), 0), torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
    for start in range(0, len(labels), width):
        tile = labels[start : start + width]
        cosines = products(z, tile, out=buffer[:, : len(tile)])
        if struck is not None:
            cosines.masked_fill_(struck[start : start + width], -torch.inf)
        if best.shape[1] == k:
            least = best[:, -1:]
        elif len(tile) > k:
            least = cosines.topk(k, dim=1).values[:, -1:]
        else:
            least = cosines.new_full((len(z), 1), -torch.inf)
        row, column = (cosines >= least).nonzero(as_tuple=True)  # by row, then by column
        counts = row.bincount(minlength=len(z))
        slot = torch.arange(len(row), dtype=torch.int64, device=z.device) - (
            counts.cumsum(0) - counts
        ).repeat_interleave(counts)
        found = z.new_full((len(z), int(counts.max())), -torch.inf)
        found_rows = rows.new_zeros(found.shape)
        found[row, slot] = cosines[row, column]
        found_rows[row, slot] = column + start
        # What was found before has lower rows: a stable sort keeps equal ones in the order of their rows.
        best, order = torch.cat([best, found], dim=1).sort(dim=1, descending=True, stable=True)
        rows = torch.cat([rows, found_rows], dim=1).gather(1, order)[:, :k]
        best = best[:, :k]
    return Neighbours(best.clone(), rows.clone())


def _filled_up(block: Tensor) -> Tensor:
    if len(block) == _ROWS:
        return block
    whole = block.new_zeros(_ROWS, block.shape[1])
    whole[: len(block)] = block
    return whole
