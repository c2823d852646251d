"""The benchmark's tracks: which images are ID, by what names, and which sets are OOD to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .manifest import COARSE_CLASSES, Row

Kind = Literal["near", "far", "extreme"]

_NEAR = ("animals", "plants", "food", "travel", "objects", "activities")
_FAR = ("faces", "people", "flags", "symbols")
_COARSE = tuple(COARSE_CLASSES)


@dataclass(frozen=True)
class Track:
    """One ID set with its OOD sets.

    Attributes:
        name: as given to ``--tracks``.
        sets: the sets that the ID images are from, where each concept's name is a class.
        classes: the coarse classes that are ID; empty where the concepts' names are the classes.
        near: OOD sets of things that one could mistake for the ID set's.
        far: OOD sets of another nature.
    """

    name: str
    sets: tuple[str, ...]
    classes: tuple[str, ...]
    near: tuple[str, ...]
    far: tuple[str, ...]

    @property
    def ood(self) -> tuple[str, ...]:
        """The names of all its OOD sets."""
        return *self.near, *self.far

    def select(self, rows: Sequence[Row]) -> Selection:
        """The track's images, as indices into the manifest's rows; only concepts seen in training.

        Raises:
            ValueError: the manifest has no ID images for this track.
        """
        seen = [index for index, row in enumerate(rows) if row.split == "seen"]
        images = [index for index in seen if self._is_id(rows[index])]
        if not images:
            raise ValueError(f"the manifest has no images for the track {self.name!r}")
        names = [rows[index].coarse if self.classes else rows[index].label for index in images]
        classes = [name for name in self.classes if name in names] or sorted(set(names))
        place = {name: number for number, name in enumerate(classes)}
        ood: dict[str, tuple[Kind, list[int]]] = {}
        kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (("near", self.near), ("far", self.far))
        for kind, sets in kinds:
            for name in sets:
                members = [
                    index for index in seen if rows[index].set == name and not self._is_class(rows[index])
                ]
                if members:
                    ood[name] = (kind, members)
        return Selection(classes, images, [place[name] for name in names], ood)

    def _is_id(self, row: Row) -> bool:
        return row.coarse in self.classes if self.classes else row.set in self.sets

    def _is_class(self, row: Row) -> bool:
        return bool(self.classes) and row.coarse in self.classes


def check_tracks(names: Sequence[str]) -> None:
    """Refuse names that are no tracks'.

    Raises:
        ValueError: there is no such track, or none is named; the message lists what there is.
    """
    unknown = [name for name in names if name not in TRACKS]
    if unknown or not names:
        raise ValueError(f"no track {', '.join(unknown) or 'named'}; there are {', '.join(TRACKS)}")


@dataclass(frozen=True)
class Selection:
    """A track's images as indices into the manifest's rows.

    Attributes:
        classes: the ID labels.
        images: the ID images.
        targets: the class of each ID image.
        ood: kind and images of each OOD set, by name.
    """

    classes: list[str]
    images: list[int]
    targets: list[int]
    ood: dict[str, tuple[Kind, list[int]]]


def _fine(name: str) -> Track:
    return Track(name, (name,), (), tuple(other for other in _NEAR if other != name), _FAR)


TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        _fine("animals"),
        _fine("food"),
        _fine("travel"),
        _fine("objects"),
        # A set that shares a group with the classes is left out: its other images are too much like them.
        Track("coarse-5", (), _COARSE[:5], ("plants", "food", "travel", "objects", "activities"), _FAR),
        Track("coarse-10", (), _COARSE[:10], ("travel", "objects", "activities"), _FAR),
        # With 23 classes every set shares its group with some; these have the most that is of no class.
        Track("coarse-23", (), _COARSE, ("objects", "activities"), ("people", "symbols")),
    )
}
