"""How images come to a model: as the model has it, or as the published evaluation of ImageNet has it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.base import ImageSize, height_and_width

PREPROCESSINGS = {
    "own": "the model's own",
    "published": "OpenOOD's for ImageNet: the shorter side to 256, bicubic, and the middle 224",
}
_RESIZED, _CROPPED = 256, 224


class PublishedPreprocessing:
    """A backbone that is given images as OpenOOD-VLM gives them: resized to 256, bicubic, and the middle 224 cropped.

    CLIP's own preprocessing resizes to 224 and so sees more of an image. What comes out has the model's size, so that
    the model's own preprocessing only makes pixels of it. For a model of another size the proportion is the same.

    Args:
        backbone: all else is its own.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.name = backbone.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the backbone's and of how images are prepared."""
        told = f"{self._backbone.fingerprint} {_RESIZED} {_CROPPED} bicubic"
        return hashlib.sha256(told.encode()).hexdigest()

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
        """Resize and crop as published, then the backbone's own preprocessing."""
        height, width = height_and_width(self.image_size)
        return self._backbone.preprocess(resized_and_cropped(image, height, width))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The backbone's."""
        return self._backbone.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """The backbone's."""
        return self._backbone.encode_texts(texts, batch_size=batch_size)


def resized_and_cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle ``height x width`` of an image whose shorter side was resized, as torchvision's transforms do it."""
    short = round(min(height, width) * _RESIZED / _CROPPED)
    least = min(image.size)
    size = [int(short * side / least) if side > least else short for side in image.size]
    resized = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def prepared(backbone: Backbone, preprocessing: str) -> Backbone:
    """The backbone that images are given to."""
    return PublishedPreprocessing(backbone) if preprocessing == "published" else backbone
