"""Global and local maximum concept matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import Embeddings, as_tensor, positive, sources_of, unit_embeddings
from ..functional import mcm_score
from ..kernels.surroundings import product, undisturbed
from ..labels.bank import LabelBank
from .base import Detector

_LOGITS_AT_ONCE = 1 << 22  # 16 MiB: an image has hundreds of patches, each with a logit for every label


class GLMCM(Detector):
    """Maximum concept matching of the whole image, and of its best patch.

    Miyai, Yu, Irie and Aizawa, *GL-MCM: global and local maximum concept matching for zero-shot
    out-of-distribution detection*, IJCV 2025 (arXiv 2304.04521). With ``p`` the softmax over the ID labels of
    cosines divided by the temperature, the OOD score is::

        (1 - max_c p_c(z)) + lambda (1 - max_{patch, c} p_c(local_patch))

    in [0, 1 + lambda], which is ``1 + lambda`` less the published confidence. Both terms are computed as the mass of
    the other labels, so that confident images keep their digits. Not checked against published outputs. Uses
    no negatives and no stream.

    Every verb needs the patches beside the embeddings, as the keyword ``local``; `encode_images_local`
    of `tanl.backbones.local_features` gives both in one pass::

        z, local = encode_images_local(backbone, pixels)
        scores = detector(z, local=local)

    `explain` looks at whole images only, and takes none.

    Args:
        bank: at least two ID labels; a single one would always have probability 1.
        lambda_value: weight of the patches. The published code's is 1; 0 would be `MCM`, which needs no patches.
        temperature: of both softmaxes over cosines; the published code's is 1.

    Raises:
        ValueError: an unusable setting; a bank with one ID label.
    """

    needs_local: ClassVar = True
    checked: ClassVar = {"lambda_value": positive, "temperature": positive}

    def __init__(self, bank: LabelBank, *, lambda_value: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(bank)
        if bank.num_id < 2:
            raise ValueError("GLMCM needs at least two ID labels; with one, every image has probability 1")
        self.lambda_value = lambda_value
        self.temperature = temperature

    def __call__(
        self,
        z: Embeddings,
        *,
        local: Embeddings | None = None,
        source: str | Sequence[str | None] | None = None,
    ) -> Tensor:
        """Score a batch, ``[B, D]`` with patches ``[B, P, D] -> [B]``; there is no stream to commit to."""
        scores = self.score(z, local=local)
        sources_of(source, len(scores))
        return scores

    @undisturbed
    def score(self, z: Embeddings, *, local: Embeddings | None = None) -> Tensor:
        """Score a batch.

        Args:
            z: image embeddings ``[B, D]``, unit rows, on the bank's device.
            local: embeddings of each image's P >= 1 patches in the same space, ``[B, P, D]``, unit rows.

        Returns:
            OOD scores ``[B]``, float32; higher = more OOD.

        Raises:
            TypeError: z or local is neither a floating tensor nor such an array.
            ValueError: no local embeddings, a wrong shape or device, NaN, or a row that is not of unit norm.
        """
        z = self._checked(z)
        patches = self._checked_patches(local, len(z))
        ids = self.bank.id_embeddings
        rows = max(1, _LOGITS_AT_ONCE // len(ids))
        best = torch.cat(
            [mcm_score(product(part, ids.T), self.temperature) for part in torch.split(patches, rows)]
        )
        whole = mcm_score(product(z, ids.T), self.temperature)
        return whole + self.lambda_value * best.view(len(z), -1).amin(dim=1)

    def predict(self, z: Embeddings, *, local: Embeddings | None = None) -> Tensor:
        """Decide: True = OOD, ``[B, D]`` with patches ``[B, P, D] -> [B]``.

        Raises:
            ValueError: there is no threshold yet (see `calibrate`), or z or local is unusable.
        """
        return self._decided(self.score(z, local=local))

    def _settings(self) -> dict[str, Any]:
        return {"lambda_value": self.lambda_value, "temperature": self.temperature}

    def _checked_patches(self, local: Embeddings | None, images: int) -> Tensor:
        """The patches of all images one after the other, ``[B P, D]``."""
        if local is None:
            raise ValueError(
                "GLMCM needs the embeddings of each image's patches, local=[B, P, D]: the backbone must give them "
                "(tanl.backbones.local_features does for open_clip's vision transformers)"
            )
        patches = as_tensor(local, "local embeddings")
        if patches.ndim != 3 or len(patches) != images:
            raise ValueError(f"local embeddings must have shape [{images}, P, D], not {list(patches.shape)}")
        return unit_embeddings(
            patches.flatten(0, 1), "local embeddings", dim=self.bank.dim, device=self.bank.device
        )
