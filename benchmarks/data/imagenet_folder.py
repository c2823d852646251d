"""A folder of ImageNet photographs as a split: some of their classes are ID, the others OOD.

Classes are numbered as in ImageNet-1k, in the order of their WordNet ids: animals first, then artefacts (what people
made), then signs, food, places, people and plants.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tanl.io.image_files import find_images
from tanl.io.text import first_of

from .image_sets import ImageSet
from .imagenet import imagenet_index, imagenet_names
from .shipped import Kind, Selection

IMAGENET_FOLDER = "imagenet-folder"
"""The split's name."""

GROUPS = {"animals": range(398), "artefacts": range(398, 916), "other": range(916, 1000)}

_DOGS = range(151, 269)
_WNID = re.compile(r"(?<![^\W_])n\d{8}(?!\d)")
_SHOWN = 3


@dataclass(frozen=True)
class ClassTrack:
    """One choice of ID classes; the OOD sets are the others of each of `GROUPS`.

    Attributes:
        name: as given to ``--tracks``.
        choose: the ID classes among those that a folder has.
        near: the groups whose other classes one could mistake for the ID set's.
        far: groups of another nature.
    """

    name: str
    choose: Callable[[Sequence[int]], Sequence[int]]
    near: tuple[str, ...]
    far: tuple[str, ...]

    @property
    def ood(self) -> tuple[str, ...]:
        """The names of its OOD sets."""
        return *self.near, *self.far

    def select(self, labels: Sequence[int]) -> Selection:
        """The track's images, as indices into those that have these ImageNet-1k labels.

        Raises:
            ValueError: there are no images of ID classes, or none of others.
        """
        known = sorted(self.choose(sorted(set(labels))))
        place = {label: number for number, label in enumerate(known)}
        images = [index for index, label in enumerate(labels) if label in place]
        ood: dict[str, tuple[Kind, list[int]]] = {}
        kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (("near", self.near), ("far", self.far))
        for kind, groups in kinds:
            for group in groups:
                members = [
                    index
                    for index, label in enumerate(labels)
                    if label in GROUPS[group] and label not in place
                ]
                if members:
                    ood[group] = (kind, members)
        if not images or not ood:
            missing = "other classes" if images else "its ID classes"
            raise ValueError(f"the folder has no images of {missing} for the track {self.name!r}")
        names = imagenet_names()
        return Selection(
            [names[label] for label in known], images, [place[labels[index]] for index in images], ood
        )


def open_imagenet_folder(root: str | PathLike[str]) -> ImageSet:
    """The images below a folder; the WordNet id in each one's path, the last if there are several, is its class.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no images in it, or the class of one cannot be told or is none of ImageNet-1k's.
    """
    base = Path(root)
    if not base.is_dir():
        raise FileNotFoundError(f"{base} is no folder; give one of ImageNet photographs (--data-root)")
    files = [file.relative_to(base).as_posix() for file in find_images(base)]
    if not files:
        raise ValueError(f"{base} holds no images; give a folder of ImageNet photographs (--data-root)")
    wnids = [_WNID.findall(file) for file in files]
    unknown = [file for file, found in zip(files, wnids, strict=True) if not found]
    if unknown:
        raise ValueError(
            f"{first_of(unknown, _SHOWN)}: no WordNet id such as n01440764 in the path, which tells an image's class"
        )
    labels = tuple(imagenet_index(found[-1]) for found in wnids)
    return ImageSet(IMAGENET_FOLDER, base, tuple(files), labels)


def _within(classes: range) -> Callable[[Sequence[int]], Sequence[int]]:
    return lambda there: [label for label in there if label in classes]


def _random(count: int) -> Callable[[Sequence[int]], Sequence[int]]:
    def choose(there: Sequence[int]) -> Sequence[int]:
        if len(there) <= count:
            raise ValueError(f"{count} random classes need a folder with more; this one has {len(there)}")
        return random.Random(0).sample(list(there), count)

    return choose


CLASS_TRACKS: dict[str, ClassTrack] = {
    track.name: track
    for track in (
        ClassTrack("random-100", _random(100), tuple(GROUPS), ()),
        ClassTrack("animals", _within(GROUPS["animals"]), (), ("artefacts", "other")),
        ClassTrack("dogs", _within(_DOGS), ("animals",), ("artefacts", "other")),
        ClassTrack("artefacts", _within(GROUPS["artefacts"]), (), ("animals", "other")),
    )
}
