"""What the pictograms are: the manifest's rows, and how concepts are sorted into sets and coarse classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data.shipped import read_rows, write_rows

FOLDER = Path(__file__).parent

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

    @property
    def in_tracks(self) -> bool:
        """Whether tracks take the image: those whose concept was seen."""
        return self.split == "seen"


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
    return read_rows(folder, Row)


def write_manifest(rows: Iterable[Row], folder: Path) -> None:
    """Write the rows, sorted by file."""
    write_rows(rows, folder, Row)
