"""Image files in, RGB images out: find them, read them, and say plainly which ones cannot be read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# fmt: off
SUFFIXES: frozenset[str] = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
})
# fmt: on
"""The endings, in lower case, by which :func:`find_images` knows an image in a directory."""

# A strip of 1 x 100 000 pixels is a small file, but a backbone that resizes the shorter side to 224 would ask
# for 15 GB. No photograph comes near this ratio.
_LARGEST_ASPECT_RATIO = 100
_EXIF_ORIENTATION = 0x0112


class UnreadableImage(ValueError):  # noqa: N818, the name says what it is
    """A file that should hold an image and does not: ``path`` says which, ``reason`` says why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path}: {self.reason}"


def find_images(path: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The images at ``path``, sorted: a file whatever its ending, or a directory's files with image endings.

    Hidden files and directories (a leading dot) inside a directory are passed over, and links to directories
    are not followed.

    Args:
        path: a file or a directory.
        recursive: whether to descend into sub-directories.

    Raises:
        FileNotFoundError: nothing is at ``path``.
        ValueError: the directory holds no image.
    """
    root = Path(path)
    if not root.is_dir():
        if not root.exists():
            raise FileNotFoundError(f"there is no file or directory {root}")
        return [root]

    found: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")] if recursive else []
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    if not found:
        where = "in or below" if recursive else "directly in"
        raise ValueError(f"there are no images {where} {root}: looked for {' '.join(sorted(SUFFIXES))}")
    return sorted(found)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a file as an RGB image, by the rules of :func:`to_rgb`; of an animation, its first frame.

    Raises:
        UnreadableImage: the file is missing, empty, truncated, not an image, one that :func:`to_rgb` refuses,
            or larger than Pillow's limit against decompression bombs.
    """
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(path, "it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(path, "it is not a regular file")
        if status.st_size == 0:
            raise UnreadableImage(path, "the file is empty")
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except UnreadableImage:
        raise
    # Decoders meet arbitrary bytes and raise whatever their parsing stumbles on (SyntaxError, struct.error,
    # IndexError, zlib.error ...): here every one of them means the same, that this file cannot be read.
    except Exception as error:
        raise UnreadableImage(path, _reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any Pillow image into the upright, opaque RGB image that a person would see.

    The EXIF orientation is applied; transparency is laid on white; 16-bit greys keep their upper 8 bits. Of
    32-bit integers, values up to 255 are kept and values up to 65535 read as 16-bit; all others, and floats,
    are stretched from their minimum to their maximum.

    Raises:
        TypeError: not a Pillow image.
        ValueError: no pixels, a side more than 100 times the other, values that are not finite, or a colour
            mode that Pillow cannot convert.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image, got {type(image).__name__}")
    width, height = image.size
    if min(width, height) == 0:
        raise ValueError(f"the image has no pixels: {width} x {height}")
    if max(width, height) > _LARGEST_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: one side is over {_LARGEST_ASPECT_RATIO} times the other; crop it"
        )
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    # A garbled EXIF block says nothing about the pixels: they stay as they are stored.
    except Exception:
        return image


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the image holds values that are not finite")
    low, high = float(np.min(values)), float(np.max(values))
    if image.mode == "I" and low >= 0 and high <= 255:
        grey = values
    # Some versions of Pillow open 16-bit files in the 32-bit mode "I".
    elif image.mode.startswith("I") and low >= 0 and high <= 65535:
        grey = values // 256
    else:
        grey = np.rint((values - low) * 255 / (high - low)) if high > low else np.full_like(values, 128)
    return Image.fromarray(grey.astype(np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or in a format that this Pillow does not know"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _raise(error: OSError) -> None:
    raise error
