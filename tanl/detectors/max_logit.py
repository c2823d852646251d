"""Maximum logit."""

from __future__ import annotations

from torch import Tensor

from ..kernels.surroundings import product
from .base import Detector


class MaxLogit(Detector):
    """The negated largest logit of the ID labels, that is their largest cosine at the bank's logit scale.

    Hendrycks et al., *Scaling out-of-distribution detection for real-world settings*, ICML 2022
    (arXiv 1911.11132). Uses no negatives and no stream.

    Args:
        bank: ID labels; negatives are not used.
    """

    def _scores(self, z: Tensor) -> Tensor:
        return -product(z * self.bank.logit_scale, self.bank.id_embeddings.T).amax(dim=1)
