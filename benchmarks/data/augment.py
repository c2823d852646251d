"""Longer streams from few images: seeded variants, for studying what online adaptation does when data run short.

A variant is not a new image. Results from such streams are of the method's behaviour over time, and are not to be set
beside those of a set that has as many images of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import label as connected

_VERSION = "1"  # of what `variant` does: part of the fingerprint

_LARGEST = 512  # pixels of the shorter side: no backbone in use looks at more
_MARGIN = 0.3  # of each side, mirrored around the image, for what turning and shifting bring in
_TURN = 12.0  # degrees to either side
_SCALE = (0.8, 1.1)  # of the image's sides that the crop takes
_SHIFT = 0.06  # of the sides, to either side
_FLAT_SHARE = 0.9  # of the border's pixels that must be of one colour for there to be a plain background
_FLAT_DISTANCE = 12  # largest difference of a channel within one colour

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmented:
    """``count`` images: first those that ``open`` gives for 0 to n - 1, each once, then variants, cycle by cycle.

    Image i depends on i, the seed and image ``i % n`` alone, so that images can be made in any order and in any number
    of threads, and a longer sequence begins with a shorter one.

    Attributes:
        open: gives the RGB image of a number below ``originals``.
        originals: n, at least 1.
        count: how many images there are, n or more.
        seed: of the variants.
    """

    open: Callable[[int], Image.Image]
    originals: int
    count: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.originals <= self.count:
            raise ValueError(f"{self.originals} images cannot be made {self.count}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        if not 0 <= index < self.count:
            raise IndexError(f"image {index} of {self.count}")
        image = self.open(index % self.originals)
        return image if index < self.originals else variant(image, np.random.default_rng([self.seed, index]))


def augmented(images: Sequence[Image.Image], count: int, seed: int) -> Augmented:
    """``count`` images from fewer: the given ones, then seeded variants of them; see `Augmented`.

    Raises:
        ValueError: there is no image, or more than ``count``.
    """
    return Augmented(images.__getitem__, len(images), count, seed)


def fingerprint(originals: str, seed: int) -> str:
    """What tells one sequence of variants from another, given the originals' fingerprint; for keys of caches."""
    return hashlib.sha256(f"{_VERSION}\0{originals}\0{seed}".encode()).hexdigest()


def variant(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """The image with another background where it has a plain one, turned, cropped, mirrored and recoloured.

    Args:
        image: RGB. One whose shorter side is above 512 pixels is made that small first.
        generator: decides everything.

    Returns:
        An RGB image of the same shape.
    """
    pixels = np.asarray(_shrunk(image.convert("RGB")), dtype=np.float32)
    plain = _plain(pixels)
    if plain is not None:
        pixels = _with_background(pixels, plain, generator)
    pixels = _recoloured(pixels, generator)
    return _moved(pixels, plain is not None, generator)


def _shrunk(image: Image.Image) -> Image.Image:
    scale = _LARGEST / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _border(pixels: Pixels) -> Pixels:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _plain(pixels: Pixels) -> Pixels | None:
    """The colour of a plain background, as drawings have it, or None."""
    border = _border(pixels)
    plain: Pixels = np.median(border, axis=0)
    share = (np.abs(border - plain).max(axis=1) <= _FLAT_DISTANCE).mean()
    return plain if share >= _FLAT_SHARE else None


def _with_background(pixels: Pixels, plain: Pixels, generator: np.random.Generator) -> Pixels:
    """The plain background in another light colour."""
    change = (generator.uniform(150, 256, size=3) - plain).astype(np.float32)
    # Only what hangs together with the border: the white of a drawing's eye is no background.
    regions, _ = connected(np.abs(pixels - plain).max(axis=2) <= _FLAT_DISTANCE)
    edge = _border(regions[..., None])
    background = np.isin(regions, np.unique(edge[edge > 0]))
    return np.where(background[..., None], pixels + change, pixels)


def _recoloured(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Other brightness, contrast, saturation and balance of the channels."""
    contrast, saturation = (float(value) for value in generator.uniform(0.75, 1.25, size=2))
    brightness = float(generator.uniform(-25, 25))
    balance = generator.uniform(0.92, 1.08, size=3).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    middle = pixels.mean()
    saturated = grey + saturation * (pixels - grey)
    recoloured: Pixels = middle + contrast * (saturated * balance - middle) + brightness
    return recoloured.clip(0, 255)


def _moved(pixels: Pixels, plain: bool, generator: np.random.Generator) -> Image.Image:
    """Turned, cropped or shrunk, shifted and perhaps mirrored, in one resampling."""
    height, width = pixels.shape[:2]
    angle = np.deg2rad(generator.uniform(-_TURN, _TURN))
    scale = generator.uniform(*_SCALE)
    shift_x, shift_y = generator.uniform(-_SHIFT, _SHIFT, size=2) * (width, height)
    mirror = -1 if generator.integers(2) else 1
    padded, (margin_x, margin_y) = _with_margin(pixels, plain)
    # Pillow's matrix leads from a pixel of the result to its place in the source.
    a, b = mirror * scale * np.cos(angle), scale * np.sin(angle)
    d, e = -mirror * scale * np.sin(angle), scale * np.cos(angle)
    middle_x, middle_y = width / 2, height / 2
    c = margin_x + middle_x + shift_x - a * middle_x - b * middle_y
    f = margin_y + middle_y + shift_y - d * middle_x - e * middle_y
    return Image.fromarray(padded.round().astype(np.uint8)).transform(
        (width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC
    )


def _with_margin(pixels: Pixels, plain: bool) -> tuple[Pixels, tuple[int, int]]:
    """The image with a margin, and its width on either axis: a drawing's background goes on, else it is mirrored."""
    height, width = pixels.shape[:2]
    x, y = (int(np.ceil(_MARGIN * side)) for side in (width, height))
    if not plain:
        return np.pad(pixels, ((y, y), (x, x), (0, 0)), mode="symmetric"), (x, y)
    padded = np.empty((height + 2 * y, width + 2 * x, 3), dtype=np.float32)
    padded[:] = np.median(_border(pixels), axis=0)
    padded[y : y + height, x : x + width] = pixels
    return padded, (x, y)
