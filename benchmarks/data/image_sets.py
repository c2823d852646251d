"""The images of a set: found by OpenOOD's lists, in a folder or by a CSV file; opened one by one, embedded once."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image, ImageFile
from torch import Tensor

from tanl.backbones import Backbone
from tanl.backbones.toys import tell_limits
from tanl.io.cache import cached_embeddings
from tanl.io.images import UnreadableImage, read_image
from tanl.io.paths import local_path
from tanl.io.progress import Progress
from tanl.io.text import first_of
from tanl.streams.batches import Read, Reader, Ready, Unusable, default_threads
from tanl.streams.images import ImageEncoder, unreadable
from tanl.streams.pump import Pump

_ENCODING_BATCH = 64
_SHOWN = 5  # how many files a message names

T = TypeVar("T")

_truncated_lock = threading.Lock()


@dataclass(frozen=True)
class ImageSet:
    """Images with their classes, in a fixed order. Nothing is opened before it is asked for.

    Attributes:
        name: of the set, as in results.
        base: the folder that the files' names are relative to.
        files: the images' names, with forward slashes.
        labels: the class of each image, -1 for OOD.
        classed: False where an ID set's classes are unknown: its labels are all 0 and mean only "ID".
        expected: how many images the published set has; None where that is unknown or does not apply.
        as_stored: read the pixels as OpenOOD's reader does (`read_as_stored`); False reads them as a person sees them
            (`tanl.io.images.read_image`).
        decode: gives the images of a set that is no files, by their number.
    """

    name: str
    base: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classed: bool = True
    expected: int | None = None
    as_stored: bool = True
    decode: Callable[[int], Image.Image] | None = None

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.files)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images in {self.base})"

    def path(self, index: int) -> Path:
        """Where image ``index`` lies."""
        return self.base / self.files[index]

    def open(self, index: int) -> Image.Image:
        """Image ``index``, in RGB.

        Raises:
            UnreadableImage: the file is missing or is no image.
        """
        if self.decode is not None:
            return self.decode(index).convert("RGB")
        return (read_as_stored if self.as_stored else read_image)(self.path(index))

    def images(
        self, transform: Callable[[Image.Image], T], *, workers: int | None = None
    ) -> Iterator[tuple[int, T | UnreadableImage]]:
        """Each image's number and what ``transform`` makes of it, in order, read ahead in threads.

        A file that cannot be read gives its `UnreadableImage` in place of the image.
        """

        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        threads = workers or default_threads()
        prepare = self.prepared_by(transform)
        indices = range(len(self))
        reader = Reader(indices, prepare, threads=threads, at_once=4 * threads + 1, in_background=False)
        reader.allow(len(self))
        try:
            for index in indices:
                found = reader.peek(None)
                assert isinstance(found, Read), "a range comes to its end without an error"
                image = found.content.result()
                reader.take()
                yield index, unreadable(image) if isinstance(image, Unusable) else image.content
        finally:
            reader.close()

    def prepared_by(
        self, transform: Callable[[Image.Image], object]
    ) -> Callable[[int, int], Ready | Unusable]:
        """What a `Pump` or `Reader` over the images' numbers prepares them with."""

        def prepare(_: int, index: int) -> Ready | Unusable:
            try:
                image = self.open(index)
            except UnreadableImage as error:
                return Unusable(error.path, error.reason, error)
            return Ready(self.files[index], transform(image))

        return prepare

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """These images alone, in this order; their number is no longer held against the published one."""
        chosen = list(indices)
        decode = self.decode
        return replace(
            self,
            files=tuple(self.files[index] for index in chosen),
            labels=tuple(self.labels[index] for index in chosen),
            expected=None,
            decode=None if decode is None else lambda index: decode(chosen[index]),
        )

    @property
    def mismatch(self) -> str | None:
        """What to print where the set has not as many images as the published one."""
        if self.expected is None or self.expected == len(self):
            return None
        return f"{self.name}: {len(self)} images, but the published set has {self.expected}"

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of the files' names, sizes and labels, in order: the same on every machine."""
        return _digest(
            f"{name}\0{size}\0{label}"
            for name, (size, _), label in zip(self.files, self._status, self.labels, strict=True)
        )

    @cached_property
    def pixels_fingerprint(self) -> str:
        """A SHA-256 of the files' names, sizes and times of change, and of how they are read: the cache's key."""
        files = (
            f"{name}\0{size}\0{changed}"
            for name, (size, changed) in zip(self.files, self._status, strict=True)
        )
        return _digest([str(self.as_stored), *files])

    @cached_property
    def _status(self) -> list[tuple[int, int]]:
        """Size and time of change of each file; -1 where there is none, 0 where the set is no files."""
        if self.decode is not None:
            return [(0, 0)] * len(self)
        return [_status(self.path(index)) for index in range(len(self))]


class EncodedSet(NamedTuple):
    """The embeddings of a set's readable images: ``[n, D]``, with classes ``[n]``, and what could not be read."""

    embeddings: Tensor
    labels: Tensor
    unreadable: tuple[str, ...]

    def warning(self, name: str) -> str | None:
        """What to print where images could not be read."""
        if not self.unreadable:
            return None
        return f"{name}: {len(self.unreadable)} images could not be read: {first_of(self.unreadable, _SHOWN)}"


def encode_image_set(
    backbone: Backbone,
    images: ImageSet,
    *,
    cache_dir: str | PathLike[str] | None = None,
    progress: bool = False,
    workers: int | None = None,
) -> EncodedSet:
    """Embed a set, or read its embeddings from the cache.

    Args:
        backbone: what encodes the images; its fingerprint is part of the cache's key.
        images: the set.
        cache_dir: None is the user's cache folder (``TANL_CACHE``).
        progress: show a progress bar.
        workers: threads that read and prepare images; by default the number of cores, at most 16.

    Raises:
        ValueError: no image of the set can be read.
    """

    def encode() -> Tensor:
        # A row of NaN stands for an image that cannot be used, so that the cache remembers which ones they are.
        rows: list[Tensor] = []
        usable: list[bool] = []
        pump = Pump(
            range(len(images)),
            images.prepared_by(backbone.preprocess),
            ImageEncoder(backbone).encode,
            batch_size=_ENCODING_BATCH,
            threads=workers,
        )
        try:
            with Progress(len(images), "images", title=images.name, quiet=not progress) as bar:
                for batch in pump:
                    if batch.z is not None:
                        rows.append(batch.z.float().cpu())
                    usable += [not isinstance(image, Unusable) for image in batch.images]
                    bar.update(len(batch.images))
        finally:
            pump.close()
        if not rows:
            raise ValueError(
                f"{images.name}: none of its {len(images)} images can be read, the first being {images.path(0)}"
            )
        known = torch.cat(rows)
        embeddings = torch.full((len(images), known.shape[1]), torch.nan)
        embeddings[torch.tensor(usable)] = known
        return embeddings

    tell_limits(backbone, images.path(0))
    embeddings = cached_embeddings(
        encode,
        kind="images",
        key=(backbone.fingerprint, images.pixels_fingerprint),
        rows=len(images),
        gaps=True,
        about={"backbone": backbone.name, "title": images.name},
        cache_dir=cache_dir,
    )
    readable = ~embeddings[:, 0].isnan()
    unreadable = tuple(images.files[int(index)] for index in (~readable).nonzero())
    labels = torch.tensor(images.labels)
    return EncodedSet(embeddings[readable].to(backbone.device), labels[readable], unreadable)


def read_as_stored(path: str | PathLike[str]) -> Image.Image:
    """Read a file as OpenOOD's reader does: pixels as stored, transparency dropped, what is left of truncated files.

    Unlike `tanl.io.images.read_image`, the EXIF orientation is not applied. What is missing of a truncated file is what
    its decoder leaves there: grey in a JPEG, black in a PNG.

    Raises:
        UnreadableImage: the file is missing, empty or not an image.
    """
    try:
        content = local_path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, (error.strerror or str(error)).lower()) from error
    if not content:
        raise UnreadableImage(path, "the file is empty")
    try:
        return _decode(content)
    # Decoders raise whatever their parsing stumbles on; all of it means that this file is not whole.
    except Exception:
        return _decode_what_is_there(path, content)


def _decode_what_is_there(path: str | PathLike[str], content: bytes) -> Image.Image:
    # Pillow has one switch for the whole process. It is on only while this one file is decoded; a reader beside it
    # would read another truncated file with the same leniency.
    with _truncated_lock:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _decode(content)
        except Exception as error:
            raise UnreadableImage(path, str(error) or type(error).__name__) from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
