"""Energy."""

from __future__ import annotations

from torch import Tensor

from ..functional import energy_score
from ..kernels.surroundings import product
from .base import Detector


class Energy(Detector):
    """The free energy of the ID logits, ``-log sum_c exp(s z.T_c)``.

    Liu et al., *Energy-based out-of-distribution detection*, NeurIPS 2020 (arXiv 2010.03759). Uses no
    negatives and no stream.

    Args:
        bank: ID labels; negatives are not used.
    """

    def _scores(self, z: Tensor) -> Tensor:
        return energy_score(product(z * self.bank.logit_scale, self.bank.id_embeddings.T))
