"""What the pictograms are: the manifest's rows, and how concepts are sorted into sets and coarse classes."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent
MANIFEST = "manifest.csv"

# Emojibase's groups, then the subgroups that leave them. Drawings of cats and monkeys among the faces show
# animals: no label names them, so they belong neither to the animals nor to an OOD set.
GROUP_SETS = {
    "activities": "activities",
    "flags": "flags",
    "food-drink": "food",
    "objects": "objects",
    "people-body": "people",
    "smileys-emotion": "faces",
    "symbols": "symbols",
    "travel-places": "travel",
}
SUBGROUP_SETS = {
    "cat-face": "animal-faces",
    "monkey-face": "animal-faces",
    "sky-weather": "sky",
    "time": "time",
}
COARSE_CLASSES: dict[str, tuple[str, ...]] = {
    "mammal": ("animal-mammal",),
    "bird": ("animal-bird",),
    "reptile": ("animal-reptile",),
    "sea animal": ("animal-marine",),
    "bug": ("animal-bug",),
    "flower": ("plant-flower",),
    "fruit": ("food-fruit",),
    "vegetable": ("food-vegetable",),
    "dessert": ("food-sweet",),
    "drink": ("drink",),
    "building": ("place-building",),
    "vehicle": ("transport-ground",),
    "boat": ("transport-water",),
    "airplane": ("transport-air",),
    "clothing": ("clothing",),
    "musical instrument": ("musical-instrument",),
    "tool": ("tool",),
    "flag": ("country-flag", "subdivision-flag", "flag"),
    "face": ("face-smiling", "face-affection", "face-neutral-skeptical", "face-concerned", "face-unwell"),
    "sport": ("sport",),
    "book": ("book-paper",),
    "clock": ("time",),
    "weather": ("sky-weather",),
}
_COARSE_OF = {subgroup: name for name, subgroups in COARSE_CLASSES.items() for subgroup in subgroups}


@dataclass(frozen=True)
class Row:
    """One image. ``file`` is relative to the manifest's folder, with forward slashes.

    ``split`` is ``seen`` where the embedded model was trained on other vendors' drawings of the concept, and
    ``unseen`` where the concept was kept out of its training; the drawing itself never was in it. ``coarse`` is
    empty where the image is of no coarse class.
    """

    file: str
    label: str
    group: str
    subgroup: str
    set: str
    coarse: str
    split: str
    concept: str
    vendor: str
    sha256: str


def set_of(group: str, subgroup: str) -> str:
    """The benchmark set of a concept."""
    if group == "animals-nature":
        return "animals" if subgroup.startswith("animal-") else "plants"
    return SUBGROUP_SETS.get(subgroup, GROUP_SETS[group])


def coarse_of(subgroup: str) -> str:
    """The coarse class of a concept, or an empty string."""
    return _COARSE_OF.get(subgroup, "")


def read_manifest(folder: Path = FOLDER) -> list[Row]:
    """The rows of a folder's manifest, in its order.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has other columns, or no rows.
    """
    path = folder / MANIFEST
    columns = [field.name for field in fields(Row)]
    with path.open(encoding="ascii", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != columns:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {columns}")
        rows = [Row(**row) for row in reader]
    if not rows:
        raise ValueError(f"{path} lists no images")
    return rows


def write_manifest(rows: Iterable[Row], folder: Path) -> None:
    """Write the rows, sorted by file."""
    with (folder / MANIFEST).open("w", encoding="ascii", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.file))


def read_image_bytes(folder: Path, row: Row) -> bytes:
    """The image file of a row.

    Raises:
        ValueError: its SHA-256 isn't the manifest's.
    """
    content = (folder / row.file).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != row.sha256:
        raise ValueError(f"{row.file} has the SHA-256 {found}, not the manifest's {row.sha256}")
    return content


def open_image(folder: Path, row: Row) -> Image.Image:
    """The image of a row, in RGB.

    Raises:
        ValueError: its SHA-256 isn't the manifest's.
    """
    with Image.open(io.BytesIO(read_image_bytes(folder, row))) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def fingerprint(rows: Sequence[Row]) -> str:
    """SHA-256 of the images' own, in order: what their embeddings depend on."""
    return hashlib.sha256("\n".join(row.sha256 for row in rows).encode()).hexdigest()
