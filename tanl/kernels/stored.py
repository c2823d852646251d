"""What one pass over the labels leaves for the sums that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Segments = Sequence[tuple[int, int]] | Tensor
"""Ranges ``(first, last + 1)`` of rows, or a tensor of them, ``[G, 2]`` of whole numbers on the rows' device."""


@dataclass(frozen=True)
class StoredExponentials:
    """``exp(scale * z @ labels.T)`` in block floating point: each tile of labels has a maximum of its own per row.

    So nothing stored is above 1, whatever the scale, and one pass is enough: a tile is brought to
    probabilities by ``exp(maxima - lse)`` when it is read.

    Attributes:
        backend: which backend made it, and alone can read it.
        values: the exponentials, in the backend's own layout.
        maxima: the largest logit of each row in each tile of labels, ``[tiles, n]`` float32.
        lse: log-sum-exp of each row over all labels, ``[n]`` float32.
        num_labels: N.
    """

    backend: str
    values: Tensor
    maxima: Tensor
    lse: Tensor
    num_labels: int


def memory_for(size: int, z: Tensor, out: StoredExponentials | None) -> Tensor:
    """At least ``size`` float32 numbers beside z: an earlier result's where that is large enough, else new ones.

    An earlier result that is too small gives up its memory first, so that there are never both.
    """
    memory = torch.empty(0, dtype=torch.float32, device=z.device)
    if out is not None and out.values.device == z.device:
        storage = out.values.untyped_storage()  # all of it: the values may take up less
        if storage.nbytes() >= size * memory.element_size():
            return memory.set_(storage)  # type: ignore[call-overload, no-any-return]
        storage.resize_(0)
    return memory.new_empty(size)
