"""What a backbone is to the rest of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image
from torch import Tensor


class BackboneError(OSError):
    """A model's weights cannot be fetched or read."""


ImageSize: TypeAlias = int | tuple[int, int]
"""Pixels of a square's side, or a height and a width."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Both, of either form of a size."""
    return (size, size) if isinstance(size, int) else size


def image_size(shape: Sequence[int]) -> ImageSize:
    """The size of pixels ``[..., H, W]`` of this shape, or of this height and width."""
    height, width = (int(side) for side in shape[-2:])
    return height if height == width else (height, width)


@runtime_checkable
class Backbone(Protocol):
    """A vision-language model that embeds images and texts into one space."""

    name: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: embeddings agree where it does."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by (CLIP: 100)."""

    @property
    def image_size(self) -> ImageSize:
        """The size of the pixels that `encode_images` takes."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and where pixels must be."""

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixels ``[3, H, W]``, float32."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B, 3, H, W]`` to unit embeddings ``[B, D]``, float32."""

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """n texts to unit embeddings ``[n, D]``, float32."""
