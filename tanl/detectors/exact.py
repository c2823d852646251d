"""Activations of all labels, exactly: one pass over them, in memory that is kept for the next pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..functional import activation_sums
from ..kernels import Segments, StoredExponentials
from ..labels.bank import LabelBank

KEPT_BYTES = 256 << 20  # a larger pass gives its memory back


class ExactActivation:
    """Sums of activations as TANL asks for them, over all labels of a bank.

    The memory of the last pass is kept for the next one, up to 256 MiB and on the CPU only, as long as this object is
    there: fresh pages for every pass, which the system has to clear, took up to half as long as the pass itself.
    """

    def __init__(self, bank: LabelBank) -> None:
        self.bank = bank
        self._spare: list[StoredExponentials] = []  # at most one

    def __call__(self, z: Tensor, segments: Segments, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Sums ``[G, M]`` of the activations of rows ``[n, D]``, and the rows' log-sum-exps, those of the first rows
        being ``known``; see `tanl.functional.activation_sums`."""
        bank = self.bank
        try:
            spare = self._spare.pop()  # and no look beforehand: another thread may take it in between
        except IndexError:
            spare = None
        memory = [] if spare is None else [spare]
        found = activation_sums(
            z, bank.embeddings, bank.num_id, bank.logit_scale, segments, memory, known=known
        )
        if memory and not self._spare and z.device.type == "cpu":
            kept = memory[0]
            if kept.values.untyped_storage().nbytes() <= KEPT_BYTES:
                self._spare.append(kept)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"bank": self.bank, "_spare": []}  # a copy makes memory of its own
