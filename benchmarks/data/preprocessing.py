"""How images come to a model: as the model has it, or as the published evaluation of ImageNet has it."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.base import height_and_width

from .prepared import Prepared

PREPROCESSINGS = {
    "own": "the model's own",
    "published": "OpenOOD's for ImageNet: the shorter side to 256, bicubic, and the middle 224",
}
_RESIZED, _CROPPED = 256, 224


class PublishedPreprocessing(Prepared):
    """A backbone that is given images as OpenOOD-VLM gives them: resized to 256, bicubic, and the middle 224 cropped.

    CLIP's own preprocessing resizes to 224 and so sees more of an image. What comes out has the model's size, so that
    the model's own preprocessing only makes pixels of it. For a model of another size the proportion is the same.

    Args:
        backbone: all else is its own.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, f"{_RESIZED} {_CROPPED} bicubic")

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize and crop as published, then the backbone's own preprocessing."""
        height, width = height_and_width(self.image_size)
        return super().preprocess(resized_and_cropped(image, height, width))


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
