"""Activations of images that come in stream after stream, computed once and kept in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from tanl.detectors.exact import ExactActivation
from tanl.kernels import Segments
from tanl.labels.bank import LabelBank


class KeptActivations:
    """What TANL takes as ``activation``: exact sums, of activations that are computed when a row is first seen.

    A benchmark shows the same images in every order, for every seed and to every setting, and nearly all of a step's
    time goes into their activations. They depend on the labels and the image alone. The sums are added in another order
    than those of `ExactActivation`, and so differ from them by rounding.

    Args:
        bank: the labels that the activations are over: a detector's bank, or its candidates.
        limit: bytes that may be kept, M float32 numbers a row; what comes after them is computed anew each time.
    """

    def __init__(self, bank: LabelBank, *, limit: int) -> None:
        self.bank = bank
        self._exact = ExactActivation(bank)
        self._places: dict[bytes, int] = {}
        # Pages are the system's until they are written to: what is never kept takes nothing.
        rows = max(0, limit) // (4 * max(1, bank.num_negatives))
        self._kept = torch.empty(rows, bank.num_negatives, dtype=torch.float32)
        self._lse = torch.empty(rows, dtype=torch.float32)

    @property
    def kept(self) -> int:
        """How many rows are kept."""
        return len(self._places)

    def __call__(self, z: Tensor, segments: Segments, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums ``[G, M]`` of the activations of rows ``[n, D]``, and the rows' log-sum-exps, those of the first rows
        being ``known``; see `tanl.functional.activation_sums`."""
        keys = [row.tobytes() for row in z.float().cpu().contiguous().numpy()]
        new = list({key: number for number, key in enumerate(keys) if key not in self._places}.items())
        if len(self._places) + len(new) > len(self._kept):
            return self._exact(z, segments, known)
        if new:
            first, rows = len(self._places), [number for _, number in new]
            there = slice(first, first + len(new))
            activations, lse = self._exact(z[rows], [(number, number + 1) for number in range(len(new))])
            self._kept[there], self._lse[there] = activations.cpu(), lse.cpu()
            self._places.update((key, first + number) for number, (key, _) in enumerate(new))
        places = [self._places[key] for key in keys]
        wanted = [places[start:stop] for start, stop in segments]
        starts = torch.tensor([0, *(len(part) for part in wanted[:-1])]).cumsum(0)
        flat = torch.tensor([place for part in wanted for place in part], dtype=torch.int64)
        sums = embedding_bag(flat, self._kept, starts, mode="sum")
        lse = self._lse[places[0 if known is None else len(known) :]]
        return sums.to(z.device), lse.to(z.device)
