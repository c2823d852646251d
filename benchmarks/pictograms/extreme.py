"""OOD sets that are far from everything: digits, textures and noise, made from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

SIZE = 160
EXTREME_IMAGES = 200
"""How many images each set has, unless another number is asked for."""

Pixels = npt.NDArray[np.float64]

_PLANE: Pixels = np.mgrid[0:SIZE, 0:SIZE] / SIZE  # rows and columns in [0, 1)


def digits(count: int, seed: int = 0) -> list[Image.Image]:
    """White digits on black in the manner of MNIST: Pillow's own font, blurred, turned and shifted."""
    generator = np.random.default_rng([seed, 1])
    return [_digit(str(index % 10), generator) for index in range(count)]


def textures(count: int, seed: int = 0) -> list[Image.Image]:
    """Procedural textures in two random colours: stripes, checks, dots, rings, cells, clouds, weave, bricks."""
    generator = np.random.default_rng([seed, 2])
    return [_coloured(_PATTERNS[index % len(_PATTERNS)](generator), generator) for index in range(count)]


def noise(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise: Gaussian, uniform, salt and pepper, grey uniform, coloured blocks."""
    generator = np.random.default_rng([seed, 3])
    return [_to_image(_NOISES[index % len(_NOISES)](generator)) for index in range(count)]


EXTREME_SETS: dict[str, Callable[[int, int], list[Image.Image]]] = {
    "digits": digits,
    "textures": textures,
    "noise": noise,
}


def fingerprint(images: list[Image.Image]) -> str:
    """SHA-256 of the images' pixels, in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def _to_image(values: Pixels) -> Image.Image:
    """Values in [0, 1], ``[H, W]`` or ``[H, W, 3]``, as an RGB image."""
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def _digit(text: str, generator: np.random.Generator) -> Image.Image:
    font = ImageFont.load_default()
    left, top, right, bottom = font.getbbox(text)
    glyph = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), text, fill=255, font=font)
    height = int(generator.integers(90, 125))
    glyph = glyph.resize((height * glyph.width // glyph.height, height), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(generator.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    paper = Image.new("L", (SIZE, SIZE))
    shift_x, shift_y = generator.integers(-10, 11, size=2)
    paper.paste(glyph, ((SIZE - glyph.width) // 2 + int(shift_x), (SIZE - glyph.height) // 2 + int(shift_y)))
    return paper.convert("RGB")


def _turned(generator: np.random.Generator) -> Pixels:
    """The plane's coordinates ``[2, H, W]``, turned by a random angle."""
    angle = generator.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.tensordot(turn, _PLANE, axes=1)


def _clouds(generator: np.random.Generator, roughness: float = 1.0) -> Pixels:
    """Noise that sums blurs of many widths, in [0, 1]."""
    total = sum(
        width**roughness * gaussian_filter(generator.standard_normal((SIZE, SIZE)), width, mode="wrap")
        for width in (1, 2, 4, 8, 16)
    )
    field = np.asarray(total)
    clouds: Pixels = (field - field.min()) / np.ptp(field)
    return clouds


def _stripes(generator: np.random.Generator) -> Pixels:
    across, _ = _turned(generator)
    stripes: Pixels = (np.sin(2 * np.pi * generator.uniform(4, 20) * across) + 1) / 2
    return stripes


def _checks(generator: np.random.Generator) -> Pixels:
    across, along = _turned(generator) * generator.uniform(4, 14)
    checks: Pixels = ((np.floor(across) + np.floor(along)) % 2).astype(np.float64)
    return checks


def _dots(generator: np.random.Generator) -> Pixels:
    across, along = (_turned(generator) * generator.uniform(4, 14)) % 1 - 0.5
    dots: Pixels = (across**2 + along**2 < generator.uniform(0.06, 0.16)).astype(np.float64)
    return dots


def _rings(generator: np.random.Generator) -> Pixels:
    centre = generator.uniform(-0.5, 1.5, size=(2, 1, 1))
    distance = np.sqrt(((_PLANE - centre) ** 2).sum(axis=0))
    rings: Pixels = (
        np.sin(2 * np.pi * generator.uniform(6, 16) * (distance + 0.15 * _clouds(generator))) + 1
    ) / 2
    return rings


def _cells(generator: np.random.Generator) -> Pixels:
    points = generator.uniform(-0.1, 1.1, size=(int(generator.integers(40, 160)), 2))
    distances, _ = cKDTree(points).query(_PLANE.reshape(2, -1).T, k=2)
    edge = (distances[:, 1] - distances[:, 0]).reshape(SIZE, SIZE)
    cells: Pixels = np.clip(edge / np.quantile(edge, 0.6), 0, 1)
    return cells


def _weave(generator: np.random.Generator) -> Pixels:
    across, along = _turned(generator) * generator.uniform(6, 16)
    over = (np.floor(across) + np.floor(along)) % 2 == 0
    weave: Pixels = np.where(over, np.abs(np.sin(np.pi * across)), np.abs(np.sin(np.pi * along)) * 0.7)
    return weave


def _bricks(generator: np.random.Generator) -> Pixels:
    rows = _PLANE[0] * generator.uniform(6, 14)
    columns = _PLANE[1] * generator.uniform(3, 7) + 0.5 * (np.floor(rows) % 2)
    mortar = ((rows % 1) < 0.12) | ((columns % 1) < 0.06)
    return np.where(mortar, 0.0, 0.6 + 0.4 * _clouds(generator, 0.5))


_PATTERNS: tuple[Callable[[np.random.Generator], Pixels], ...] = (
    _stripes,
    _checks,
    _dots,
    _rings,
    _cells,
    _clouds,
    _weave,
    _bricks,
)


def _coloured(pattern: Pixels, generator: np.random.Generator) -> Image.Image:
    dark, light = generator.uniform(0, 0.5, size=3), generator.uniform(0.4, 1, size=3)
    grain = generator.normal(0, 0.04, size=(SIZE, SIZE, 1))
    return _to_image(dark + (light - dark) * pattern[..., None] + grain)


def _gaussian_noise(generator: np.random.Generator) -> Pixels:
    return generator.normal(0.5, 0.25, size=(SIZE, SIZE, 3))


def _uniform_noise(generator: np.random.Generator) -> Pixels:
    return generator.uniform(size=(SIZE, SIZE, 3))


def _salt_and_pepper(generator: np.random.Generator) -> Pixels:
    return (generator.uniform(size=(SIZE, SIZE, 3)) < generator.uniform(0.2, 0.8)).astype(np.float64)


def _grey_noise(generator: np.random.Generator) -> Pixels:
    return generator.uniform(size=(SIZE, SIZE))


def _block_noise(generator: np.random.Generator) -> Pixels:
    blocks = generator.uniform(size=(20, 20, 3))
    return blocks.repeat(SIZE // 20, axis=0).repeat(SIZE // 20, axis=1)


_NOISES: tuple[Callable[[np.random.Generator], Pixels], ...] = (
    _gaussian_noise,
    _uniform_noise,
    _salt_and_pepper,
    _grey_noise,
    _block_noise,
)
