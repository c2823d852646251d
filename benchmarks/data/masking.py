"""Images with a share of their patches masked, as the model would see them."""

from __future__ import annotations

import hashlib

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone

from .prepared import Prepared

PATCH = 16


class Masked(Prepared):
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
        how = f"masked {share} {seed} {patch}" if share else ""
        super().__init__(backbone, how, name=f"{backbone.name}, {share:.0%} masked")
        self._share, self._seed, self._patch = share, seed, patch

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]`` with patches masked."""
        pixels = super().preprocess(image)
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
