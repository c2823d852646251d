"""Sets of images that ship with tanl: their manifests, images checked against it, and tracks that sort them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from PIL import Image
from torch import Tensor

from tanl.backbones import Backbone

from .image_cache import cached_image_embeddings
from .packed import unpacked

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)

MANIFEST = "manifest.csv"

Kind = Literal["near", "far", "extreme"]


class ShippedImage(Protocol):
    """What the rows of every manifest have.

    Attributes:
        file: the image, relative to the manifest's folder, with forward slashes.
        label: the name of what it shows.
        set: the set that it belongs to.
        coarse: the name of the coarse class that it is of, or an empty string.
        sha256: of the file.
        in_tracks: whether tracks take it.
    """

    @property
    def file(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def set(self) -> str: ...
    @property
    def coarse(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def in_tracks(self) -> bool: ...


def read_rows(folder: Path, kind: type[R]) -> list[R]:
    """The rows of a folder's manifest, in its order.

    Args:
        folder: where ``manifest.csv`` lies.
        kind: a dataclass of strings; the manifest's columns are its fields.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has other columns, or no rows.
    """
    path = folder / MANIFEST
    columns = [column.name for column in fields(kind)]
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if reader.fieldnames != columns:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, not {columns}")
        rows = [kind(**row) for row in reader]
    if not rows:
        raise ValueError(f"{path} lists no images")
    return rows


def write_rows(rows: Iterable[R], folder: Path, kind: type[R]) -> None:
    """Write a manifest that `read_rows` reads, sorted by file."""
    listed = sorted((asdict(row) for row in rows), key=lambda row: row["file"])
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [column.name for column in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)


def read_image_bytes(folder: Path, row: ShippedImage) -> bytes:
    """The image file of a row.

    Raises:
        ValueError: its SHA-256 isn't the manifest's.
    """
    content = (folder / row.file).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != row.sha256:
        raise ValueError(f"{row.file} has the SHA-256 {found}, not the manifest's {row.sha256}")
    return content


def open_image(folder: Path, row: ShippedImage) -> Image.Image:
    """The image of a row, in RGB.

    Raises:
        ValueError: its SHA-256 isn't the manifest's.
    """
    with Image.open(io.BytesIO(read_image_bytes(folder, row))) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def fingerprint(rows: Sequence[ShippedImage]) -> str:
    """SHA-256 of the images' own, in order: what their embeddings depend on."""
    return hashlib.sha256("\n".join(row.sha256 for row in rows).encode()).hexdigest()


@dataclass(frozen=True)
class Track:
    """One ID set with its OOD sets.

    Attributes:
        name: as given to ``--tracks``.
        sets: the sets that the ID images are from, where each image's label is a class.
        classes: the coarse classes that are ID; empty where the labels are the classes.
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

    def select(self, rows: Sequence[ShippedImage]) -> Selection:
        """The track's images, as indices into the manifest's rows; only rows that are ``in_tracks``.

        Raises:
            ValueError: the manifest has no ID images for this track.
        """
        taken = [index for index, row in enumerate(rows) if row.in_tracks]
        images = [index for index in taken if self._is_id(rows[index])]
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
                    index for index in taken if rows[index].set == name and not self._is_class(rows[index])
                ]
                if members:
                    ood[name] = (kind, members)
        return Selection(classes, images, [place[name] for name in names], ood)

    def _is_id(self, row: ShippedImage) -> bool:
        return row.coarse in self.classes if self.classes else row.set in self.sets

    def _is_class(self, row: ShippedImage) -> bool:
        return bool(self.classes) and row.coarse in self.classes


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


@dataclass(frozen=True)
class ShippedSplit:
    """A split whose images come with tanl.

    Attributes:
        name: as given to ``--split``.
        package: where its manifest lies, and its images or their archive.
        read: reads the manifest of a folder.
        tracks: its tracks, by name.
        generated: OOD sets of every track that are made from a number of images and a seed, by name.
    """

    name: str
    package: Path
    read: Callable[[Path], Sequence[ShippedImage]]
    tracks: Mapping[str, Track]
    generated: Mapping[str, Callable[[int, int], Sequence[Image.Image]]] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """Where its manifest and images lie; an archive's are taken out first, see `unpacked`."""
        return unpacked(self.package)

    def embeddings(
        self,
        backbone: Backbone,
        rows: Sequence[ShippedImage],
        *,
        folder: Path | None = None,
        cache_dir: str | PathLike[str] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Embeddings ``[len(rows), D]`` of the manifest's images, from the cache where they are there.

        Raises:
            ValueError: an image isn't the manifest's.
        """
        base = folder or self.folder
        return cached_image_embeddings(
            backbone,
            lambda: (open_image(base, row) for row in rows),
            count=len(rows),
            fingerprint=fingerprint(rows),
            cache_dir=cache_dir,
            progress=progress,
            title=self.name,
        )
