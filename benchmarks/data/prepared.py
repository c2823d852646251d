"""A backbone to which images come in another way than it has them come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.base import ImageSize


class Prepared:
    """Another backbone in everything but `preprocess`, which a class on this one gives.

    Args:
        backbone: the other one.
        how: in words that say all that matters of how images are prepared; its fingerprint depends on them. Empty where
            nothing differs.
        name: None is the other one's.
    """

    def __init__(self, backbone: Backbone, how: str, *, name: str | None = None) -> None:
        self._backbone, self._how = backbone, how
        self.name = backbone.name if name is None else name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the other one's and of how images are prepared."""
        own = self._backbone.fingerprint
        return hashlib.sha256(f"{own} {self._how}".encode()).hexdigest() if self._how else own

    @property
    def logit_scale(self) -> float:
        """The other one's."""
        return self._backbone.logit_scale

    @property
    def image_size(self) -> ImageSize:
        """The other one's."""
        return self._backbone.image_size

    @property
    def device(self) -> torch.device:
        """The other one's."""
        return self._backbone.device

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``."""
        return self._backbone.preprocess(image)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The other one's."""
        return self._backbone.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """The other one's."""
        return self._backbone.encode_texts(texts, batch_size=batch_size)
