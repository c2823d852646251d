"""Images with a share of their patches masked, as the model would see them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.base import ImageSize

PATCH = 16


class Masked:
    """A backbone that sees every image with a share of its patches replaced by the image's own mean colour.

    Which patches they are depends on the pixels and the seed alone: the same image is masked alike in every run, and a
    larger share masks what a smaller one masks and more.

    Args:
        backbone: what embeds them.
        share: of the patches, rounded to whole patches, from 0 to 1.
        seed: of the choice.
        patch: pixels of a patch's side, of the pixels that the model takes; at the right and lower edge less.
    """

    def __init__(self, backbone: Backbone, share: float, *, seed: int = 0, patch: int = PATCH) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share!r}; it must lie between 0 and 1")
        self._backbone, self._share, self._seed, self._patch = backbone, share, seed, patch
        self.name = f"{backbone.name}, {share:.0%} masked"

    @property
    def fingerprint(self) -> str:
        """Another for every share, seed and size of patches; without a mask the backbone's own."""
        if self._share == 0:
            return self._backbone.fingerprint
        own = f"{self._backbone.fingerprint} masked {self._share} {self._seed} {self._patch}"
        return hashlib.sha256(own.encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """The backbone's."""
        return self._backbone.logit_scale

    @property
    def image_size(self) -> ImageSize:
        """The backbone's."""
        return self._backbone.image_size

    @property
    def device(self) -> torch.device:
        """The backbone's."""
        return self._backbone.device

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]`` with patches masked."""
        pixels = self._backbone.preprocess(image)
        if self._share == 0:
            return pixels
        rows, columns = -(-pixels.shape[1] // self._patch), -(-pixels.shape[2] // self._patch)
        digest = hashlib.sha256(
            pixels.cpu().contiguous().numpy().tobytes() + str(self._seed).encode()
        ).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        order = torch.randperm(rows * columns, generator=generator, device="cpu")
        hidden = torch.zeros(rows * columns, dtype=torch.bool, device="cpu")
        hidden[order[: round(self._share * rows * columns)]] = True
        grid = hidden.view(rows, columns).repeat_interleave(self._patch, 0).repeat_interleave(self._patch, 1)
        mask = grid[: pixels.shape[1], : pixels.shape[2]].to(pixels.device)
        return torch.where(mask, pixels.mean(dim=(1, 2), keepdim=True), pixels)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """As the backbone."""
        return self._backbone.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """As the backbone."""
        return self._backbone.encode_texts(texts, batch_size=batch_size)
