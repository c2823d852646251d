"""Open Clip Art drawings with their titles and keywords, read from the two Debian packages.

``openclipart-svg`` carries the metadata (title, keywords, licence) and ``openclipart-png`` the ready renderings. Only
drawings whose own metadata says *public domain* are kept.
"""

from __future__ import annotations

import gzip
import html
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_KEYWORDS_THAT_SAY_NOTHING = frozenset(
    {"theme", "icons", "icon", "unsorted", "public domain", "image", "svg", "media", "hash", "externalsource"}
)
_TITLES_THAT_SAY_NOTHING = (
    "icon collection",
    "icons",
    "gramastar",
    "part of the",
    "theme",
    "clipart by",
    "untitled",
)
_STARS = "shapes/stars"  # hundreds of near-identical star polygons: one in twenty is kept
_MAX_CAPTION = 60
_MAX_PIXELS = 20_000_000


@dataclass(frozen=True)
class Clipart:
    """One public-domain drawing: its rendered file and its captions, the most specific first."""

    name: str
    path: Path
    captions: tuple[str, ...]


def read_clipart(svg_package: str | Path, png_package: str | Path) -> list[Clipart]:
    """Every public-domain drawing that has a rendering and at least one caption, ordered by name."""
    svg_root = Path(svg_package) / "usr/share/openclipart/svg"
    png_root = Path(png_package) / "usr/share/openclipart/png"
    drawings: list[Clipart] = []
    stars = 0
    for source in sorted(path for path in svg_root.rglob("*.svg*") if not path.is_symlink()):
        name = source.relative_to(svg_root).with_suffix("").as_posix()
        path = png_root / f"{name}.png"
        if not path.is_file():
            continue
        metadata = _metadata(source)
        captions = _captions(name, metadata)
        if "publicdomain" not in metadata.lower() or not captions:
            continue
        if name.startswith(_STARS):
            stars += 1
            if stars % 20 != 1:
                continue
        drawings.append(Clipart(name, path, captions))
    return drawings


def render(drawing: Clipart, size: int) -> Image.Image:
    """The drawing, cropped to its visible part and centred in a square RGBA image of ``size`` pixels."""
    from PIL import Image

    with Image.open(drawing.path) as stored:
        image = stored.convert("RGBA")
    box = image.getbbox()
    image = image.crop(box) if box else image
    side = max(image.size)
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)


def is_oversized(drawing: Clipart) -> bool:
    """Whether the rendering has more than twenty megapixels, as a few do, by its PNG header."""
    with drawing.path.open("rb") as stream:
        width, height = struct.unpack(">II", stream.read(24)[16:])
    return bool(width * height > _MAX_PIXELS)


def clean_caption(text: str) -> str:
    """Lower case, no digits, underscores or hyphens, at most 60 characters."""
    text = re.sub(r"[_\-\d\s]+|\bclip ?art\b", " ", text.lower())
    text = re.sub(r"\s+", " ", text)
    return text.strip(" .!,")[:_MAX_CAPTION].strip()


def _metadata(source: Path) -> str:
    content = source.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    match = re.search(r"<rdf:RDF.*?</rdf:RDF>", content.decode("utf-8", "replace"), re.DOTALL)
    return match.group(0) if match else ""


def _captions(name: str, metadata: str) -> tuple[str, ...]:
    title_match = re.search(r"<dc:title>(.*?)</dc:title>", metadata, re.DOTALL)
    subject_match = re.search(r"<dc:subject>(.*?)</dc:subject>", metadata, re.DOTALL)
    title = clean_caption(html.unescape(title_match.group(1))) if title_match else ""
    subjects = (
        re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", subject_match.group(1), re.DOTALL) if subject_match else []
    )
    keywords = [clean_caption(html.unescape(subject)) for subject in subjects]
    keywords = [word for word in keywords if 1 < len(word) < 30 and word not in _KEYWORDS_THAT_SAY_NOTHING]
    if not title or any(phrase in title for phrase in _TITLES_THAT_SAY_NOTHING):
        title = clean_caption(name.rsplit("/", 1)[-1])
    folder = clean_caption(name.split("/")[-2]) if "/" in name else ""
    captions = [title, *keywords[:5], folder]
    return tuple(
        dict.fromkeys(c for c in captions if c.isascii() and c and c not in _KEYWORDS_THAT_SAY_NOTHING)
    )
