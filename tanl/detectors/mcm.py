"""Maximum concept matching."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..checks import positive
from ..functional import mcm_score
from ..kernels.surroundings import product
from ..labels.bank import LabelBank
from .base import Detector


class MCM(Detector):
    """Maximum concept matching: one minus the largest softmax probability of the ID labels.

    Ming et al., *Delving into out-of-distribution detection with vision-language representations*,
    NeurIPS 2022 (arXiv 2211.13445). Uses no negatives and no stream.

    Args:
        bank: at least two ID labels; a single one would always have probability 1.
        temperature: of the softmax over cosines; the paper's is 1, CLIP's own logit scale would be 0.01.
    """

    checked: ClassVar = {"temperature": positive}

    def __init__(self, bank: LabelBank, *, temperature: float = 1.0) -> None:
        super().__init__(bank)
        if bank.num_id < 2:
            raise ValueError("MCM needs at least two ID labels; with one, every image has probability 1")
        self.temperature = temperature

    def _scores(self, z: Tensor) -> Tensor:
        return mcm_score(product(z, self.bank.id_embeddings.T), self.temperature)

    def _settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
