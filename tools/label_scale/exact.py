"""TANL over all labels of an index, exactly, with no more of them in memory at once than a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from tanl import kernels
from tanl.kernels import Segments
from tanl.labels.bank import LabelBank
from tanl.labels.index import LabelIndex

_AT_ONCE = 65_536


class OverIndex(LabelBank):
    """ID labels of one bank, negatives of an index: those that were struck out keep their places."""

    def __init__(self, ids: LabelBank, index: LabelIndex) -> None:
        self._keep((*ids.id_names, *index.names), index.embeddings, ids.num_id, ids.logit_scale)
        self._ids = ids

    @property
    def id_embeddings(self) -> Tensor:
        """``[C, D]`` float32."""
        return self._ids.id_embeddings

    @property
    def negative_embeddings(self) -> Tensor:
        """``[N, D]``, where they are."""
        return self.embeddings

    @cached_property
    def fingerprint(self) -> str:
        """Of the ID labels: these banks are not saved."""
        return self._ids.fingerprint


class ExactOver:
    """Sums of activations of all labels of an index that are not struck out; 0 for those that are."""

    def __init__(self, ids: LabelBank, index: LabelIndex) -> None:
        self._ids, self._index = ids, index
        self._alive = ~index.struck

    def __call__(self, z: Tensor, segments: Segments, known: Tensor) -> tuple[Tensor, Tensor]:
        """As `tanl.detectors.state.Activations`: one pass for the denominators of new rows, one for the sums."""
        scale, new = self._ids.logit_scale, z[len(known) :].contiguous()
        lse = z.new_zeros(0)
        if len(new):
            lse = kernels.row_lse(new, self._ids.id_embeddings.contiguous(), scale)
            for _, labels in self._chunks():
                lse = torch.logaddexp(lse, kernels.row_lse(new, labels, scale))
        every = torch.cat([known, lse])
        sums = torch.zeros(len(segments), len(self._index))
        for rows, labels in self._chunks():
            sums[:, rows] = kernels.segment_colsum(z.contiguous(), labels, scale, every, segments)
        return sums, lse

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self._index), _AT_ONCE):
            rows = self._alive[start : start + _AT_ONCE].nonzero()[:, 0] + start
            if len(rows):
                yield rows, self._index.embeddings[rows]
