"""Image files in, RGB images out: read them, and say plainly which ones cannot be read."""

from __future__ import annotations

import math
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .dicom import DicomFile
from .image_files import head_of, is_dicom, is_heif, reason
from .levels import to_8_bits
from .paths import local_path

MAX_PIXELS = 1 << 27
"""The most pixels, 134 million, that are decoded of one image. A JPEG of more than `LARGE` is decoded at a half,
quarter or eighth of its size."""

LARGE = 1 << 25
"""Files of more pixels than this, 33 million, are decoded one at a time, whatever the number of threads, and are made
smaller by a whole factor before they are handed on: what models see of them is far smaller still."""

# A strip of 1 x 100 000 pixels is a small file, but a backbone that resizes the shorter side to 224 would ask
# for 15 GB. No photograph comes near this ratio.
_LARGEST_ASPECT_RATIO = 100
_SHORTEST_SIDE = 1024  # below it no image is made smaller
_STRIP = 1 << 20  # pixels that are converted at once
_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO, _MAX_SAMPLE_VALUE = 258, 262, 0, 281  # of TIFF

_one_large_image = threading.Lock()

OVER_THE_WIRE = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP")
"""The formats, in Pillow's words, that `image_from_bytes` takes of a sender; HEIC too, where its extra is installed."""


class UnreadableImage(ValueError):  # noqa: N818, the name says what it is
    """A file that should hold an image and does not: ``path`` says which, ``reason`` says why."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path}: {self.reason}"


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a file as an RGB image, by the rules of :func:`to_rgb`; of an animation, its first frame.

    Formats are those that Pillow knows, HEIC with the extra ``heif``, and DICOM with the extra ``medical``, whose
    greys go through the file's rescale slope and window.

    Raises:
        UnreadableImage: the path is an address; the file is missing, empty, truncated, not an image, one that
            :func:`to_rgb` refuses, larger than Pillow's limit against decompression bombs, DICOM of several frames, or
            of a format whose extra is not installed.
    """
    try:
        path = local_path(path)
        mode = path.stat().st_mode
        if S_ISDIR(mode):
            raise UnreadableImage(path, "it is a directory")
        if not S_ISREG(mode):
            raise UnreadableImage(path, "it is not a regular file")
        head = head_of(path)
        if not head:
            raise UnreadableImage(path, "the file is empty")
        return _read_dicom(path) if is_dicom(head) else _read(path, head)
    except UnreadableImage:
        raise
    # Decoders meet arbitrary bytes and raise whatever their parsing stumbles on (SyntaxError, struct.error,
    # IndexError, zlib.error ...): here every one of them means the same, that this file cannot be read.
    except Exception as error:
        raise UnreadableImage(path, _reason(error)) from error


def image_from_bytes(content: bytes, name: str, *, max_pixels: int | None = None) -> Image.Image:
    """Read an image that is in memory, as `read_image` reads a file. No path and no address is ever opened.

    Args:
        content: a file's bytes, in a format of `OVER_THE_WIRE`. What people rarely send (DICOM among it) is not
            decoded, whoever sends it.
        name: what to call it in errors; text, and nothing else.
        max_pixels: the most that are decoded; None is `MAX_PIXELS`.

    Raises:
        UnreadableImage: no such image, one that `to_rgb` refuses, or one with more pixels; its path is the name.
    """
    try:
        if not content:
            raise UnreadableImage(name, "it is empty")
        if is_dicom(content):
            raise UnreadableImage(name, "it is DICOM, which is read of files alone: tanl judge does that")
        Image.init()
        formats = [name for name in OVER_THE_WIRE if name in Image.OPEN]  # an older Pillow knows no AVIF
        return _read(BytesIO(content), content, max_pixels, formats)
    except UnreadableImage:
        raise
    except Exception as error:  # as in `read_image`
        raise UnreadableImage(name, _reason(error)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any Pillow image into the upright, opaque RGB image that a person would see.

    The EXIF orientation is applied; transparency is laid on white; greys of more than 8 bits, and floats, follow
    `tanl.io.levels.to_8_bits`. An image of more than `LARGE` pixels is made smaller by a whole factor.

    Raises:
        TypeError: not a Pillow image.
        ValueError: no pixels, more than `MAX_PIXELS`, a side more than 100 times the other, values that are not
            finite, or a colour mode that Pillow cannot convert.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image, got {type(image).__name__}")
    check_size(image.size)
    return _to_rgb(image)


def has_levels(image: Image.Image) -> bool:
    """Whether its greys have more than 8 bits, or are floats: Pillow would clip them."""
    return image.mode.startswith("I") or image.mode == "F"


def check_size(size: tuple[int, int], limit: int | None = None) -> None:
    """Refuse an image of this width and height that has no pixels, more than the limit, or is a thin strip."""
    width, height = size
    if min(width, height) == 0:
        raise ValueError(f"the image has no pixels: {width} x {height}")
    if max(width, height) > _LARGEST_ASPECT_RATIO * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: one side is over {_LARGEST_ASPECT_RATIO} times the other; crop it"
        )
    told = "" if limit is not None else " (tanl.io.images.MAX_PIXELS)"
    limit = MAX_PIXELS if limit is None else limit
    if width * height > limit:
        raise ValueError(
            f"{width} x {height} pixels are more than the limit of {limit} for one image{told}; make it smaller"
        )


def _read(
    source: Path | BytesIO, head: bytes, limit: int | None = None, formats: list[str] | None = None
) -> Image.Image:
    try:
        opened: Image.Image = Image.open(source, formats=formats)
    except UnidentifiedImageError:
        if is_heif(head):
            opened = _open_heif(source)
        elif isinstance(source, Path) and source.suffix.lower() in (".dcm", ".dicom"):
            return _read_dicom(source)  # an old one, without the preamble
        else:
            raise
    with opened as image:
        full_size = image.size
        if image.format in ("JPEG", "MPO") and (factor := _factor(full_size)) > 1:
            scale = 2 if factor == 2 else 4 if factor <= 4 else 8
            image.draft(None, (image.width // scale, image.height // scale))
        if image.format == "EPS":
            raise ValueError("it is EPS, a program that would be run to see it; save it as PNG")
        # A file that is shrunk while it is decoded counts as what comes out; a sender may not ask for that work.
        check_size(image.size if isinstance(source, Path) else full_size, limit)
        with _turn(full_size):
            # Asked before the file is decoded, which forgets it.
            halves_colours = ";16" in _raw_mode(image) and not has_levels(image)
            white, inverted = _declared(image, head)
            image.load()
            if image.format == "PNG" and has_levels(image):
                white = _white_of_png(image, head)
            if halves_colours:
                _check_upper_halves(image)
            return _to_rgb(image, white, inverted=inverted)


def _read_dicom(path: Path) -> Image.Image:
    file = DicomFile(path)
    check_size(file.size)
    with _turn(file.size):
        return _to_rgb(file.image())


def _open_heif(source: Path | BytesIO) -> Image.Image:
    try:
        pillow_heif: Any = import_module("pillow_heif")
    except ImportError as error:
        raise ImportError(
            'it is HEIC or AVIF, which this Pillow does not read: pip install "tanl[heif]" for HEIC, and a newer '
            "Pillow for AVIF"
        ) from error
    image: Image.Image = pillow_heif.HeifImageFile(source)
    return image


def _to_rgb(image: Image.Image, white: int | None = None, *, inverted: bool = False) -> Image.Image:
    """What `to_rgb` gives; ``white`` and ``inverted`` are what a file of greys beyond 8 bits declares."""
    orientation = _orientation(image)
    if has_levels(image):
        grey = to_8_bits(np.asarray(image), white)
        image = Image.fromarray(255 - grey if inverted else grey)
    rgb = _opaque(image, _factor(image.size))
    if orientation != 1:
        rgb.getexif()[_EXIF_ORIENTATION] = orientation
        rgb = ImageOps.exif_transpose(rgb)
    return rgb


def _turn(size: tuple[int, int]) -> AbstractContextManager[Any]:
    return _one_large_image if size[0] * size[1] > LARGE else nullcontext()


def _factor(size: tuple[int, int]) -> int:
    """By how much an image of this size is made smaller before it is handed on."""
    width, height = size
    return max(1, min(math.ceil(math.sqrt(width * height / LARGE)), min(size) // _SHORTEST_SIDE))


def _raw_mode(image: Image.Image) -> str:
    """How a file that is not decoded yet has its pixels, in Pillow's words: "RGB;16B"."""
    tile = next(iter(getattr(image, "tile", ())), None)
    arguments = tile[3] if tile else None
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _check_upper_halves(image: Image.Image) -> None:
    """Refuse colours of 16 bits that have nothing in their upper 4: Pillow drops the lower half."""
    ranges = zip(image.getbands(), cast(Any, image.getextrema()), strict=True)
    if max(high for band, (_, high) in ranges if band not in "Aa") < 16:
        raise ValueError(
            "its colours have 16 bits and use at most the lower 12, of which Pillow drops 8; save it with 8 bits "
            "a colour"
        )


def _declared(image: Image.Image, head: bytes) -> tuple[int | None, bool]:
    """What a file that is not decoded yet declares of greys beyond 8 bits: what is white, and whether 0 is.

    White is None where only the container's bits are known: they say nothing of how many are used.
    """
    if not image.mode.startswith("I"):
        return None, image.mode == "F" and _is_white_zero(image)
    if image.format == "TIFF":
        tags = cast(Any, image).tag_v2
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        largest = tags.get(_MAX_SAMPLE_VALUE)
        largest = largest[0] if isinstance(largest, tuple) and largest else largest
        white = (1 << bits) - 1 if 8 < bits < 16 else largest
        return (white if isinstance(white, int) and 255 <= white < 65535 else None), _is_white_zero(image)
    # Pillow spreads the levels of these two over 16 bits, unless they have 16.
    if image.format == "PPM":
        return (65535 if _raw_mode(image) == "L" else None), False
    if image.format == "JPEG2000":
        return (65535 if _bits_of_jpeg_2000(head) < 16 else None), False
    return None, False


def _white_of_png(image: Image.Image, head: bytes) -> int | None:
    """What is white in a decoded PNG of 16 bits by its chunk sBIT, which tells how many are used; None without one.

    By the standard they are the upper ones, with the lower empty or filled up; many writers use the lower ones.
    """
    bits, place = 0, 8
    while place + 9 <= len(head) and head[place + 4 : place + 8] not in (b"PLTE", b"IDAT"):
        if head[place + 4 : place + 8] == b"sBIT":
            bits = head[place + 8]
            break
        place += 12 + int.from_bytes(head[place : place + 4], "big")
    if not 8 <= bits < 16:
        return None
    values = np.asarray(image)
    upper = values >> (16 - bits)
    filled = upper << (16 - bits) | upper >> (2 * bits - 16)
    if values.max() > 0 and any(np.array_equal(values, each) for each in (filled, upper << (16 - bits))):
        return 65535
    # A value beyond what it tells makes it wrong.
    white = (1 << bits) - 1
    return white if values.max() <= white else None


def _is_white_zero(image: Image.Image) -> bool:
    return image.format == "TIFF" and cast(Any, image).tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _bits_of_jpeg_2000(head: bytes) -> int:
    start = head.find(b"\xff\x4f\xff\x51")  # start of the codestream, and of its sizes
    precision = head[start + 42 : start + 43] if start >= 0 else b""
    return (precision[0] & 0x7F) + 1 if precision else 16


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    # A garbled EXIF block says nothing about the pixels: they stay as they are stored.
    except Exception:
        return 1


def _opaque(image: Image.Image, factor: int) -> Image.Image:
    """The image in RGB, on white paper, at 1 / ``factor`` of its size; strip by strip, so that no copy is whole."""
    if factor == 1 and not _is_transparent(image):
        return image.convert("RGB")
    rgb = Image.new("RGB", (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    rows = factor * max(1, _STRIP // (image.width * factor))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_paper(strip).reduce(factor), (0, top // factor))
    return rgb


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _on_paper(image: Image.Image) -> Image.Image:
    if not _is_transparent(image):
        return image.convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    image = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or in a format that this Pillow does not know"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError):
        return reason(error)
    return str(error) or type(error).__name__
