"""What one pass over the labels leaves for the sums that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Segments = Sequence[tuple[int, int]]


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
