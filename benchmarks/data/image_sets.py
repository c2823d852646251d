"""The images of a set: found by OpenOOD's lists, in a folder or by a CSV file; opened one by one, embedded once."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image, ImageFile
from torch import Tensor
from tqdm import tqdm

from tanl.backbones import Backbone
from tanl.io.cache import cached_embeddings
from tanl.io.images import UnreadableImage, find_images, read_image
from tanl.streams.batches import Read, Reader, Ready, Unusable, default_threads
from tanl.streams.images import ImageEncoder, unreadable
from tanl.streams.pump import Pump

from .imglist import OOD_LABEL, Entry, inside, read_imglist
from .splits import Source, wanted

_ENCODING_BATCH = 64
_NAMED = 5  # how many files a message names

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
        return f"{name}: {len(self.unreadable)} images could not be read: {_listed(self.unreadable)}"


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
            with tqdm(total=len(images), desc=images.name, disable=not progress) as bar:
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


def data_root(given: str | PathLike[str] | None = None) -> Path:
    """The folder with OpenOOD's layout: what was given, else ``TANL_DATA``, else ``data`` here."""
    return Path(given or os.environ.get("TANL_DATA") or "data").expanduser()


def open_source(source: Source, root: str | PathLike[str] | None = None, *, ood: bool) -> ImageSet:
    """The images of one set of a split, as they lie on disk; none is opened and nothing is downloaded.

    The set's lists are read where they are there and at least one of their files is. Else a folder that is the whole
    set is taken, and else what torchvision has stored.

    Args:
        source: of a row of `tanl.benchmarks.data.splits`.
        root: the data root (`data_root`).
        ood: whether the set is OOD in this split: all its labels are then -1.

    Raises:
        FileNotFoundError: the set is not there; the message names the folder, the count and where to get it.
        ValueError: a list that cannot be read, or an ID set with an OOD label.
    """
    base = data_root(root)
    found = _listed_set(source, base) or _whole_folder(source, base) or _stored_by_torchvision(source, base)
    if found is None:
        raise FileNotFoundError(_absent(source, base))
    if ood:
        return replace(found, labels=(OOD_LABEL,) * len(found))
    if min(found.labels) < 0:
        raise ValueError(f"{source.name} is the ID set, but its list has OOD labels (-1); take another list")
    return found


def custom_set(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    ood: bool,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """A folder of images, or a CSV file that lists them, as a set of one's own.

    A CSV file has a header with a column ``path``, relative to the file's folder or absolute, and may have a column
    ``label``: a class number, or a name among ``classes``. Of a folder, the classes are its sub-folders, if all images
    lie in sub-folders whose names are among ``classes``. Case and underscores do not matter in names.

    Args:
        path: the folder or file.
        name: of the set; by default the path's last part.
        ood: whether the set is OOD: its classes are then of no matter.
        classes: the ID classes' names.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: no images, a CSV file without a column ``path``, or a label that is not among the classes.
    """
    given = Path(path)
    known = {_plain(label): number for number, label in enumerate(classes or ())}
    base = given if given.is_dir() else given.parent
    if given.suffix.lower() == ".csv" and given.is_file():
        rows = _read_table(given, ("path", "label"), None)
        files = tuple(file for file, _ in rows)
        texts = [label for _, label in rows]
        classed = not ood and any(texts)
        labels = tuple(_class(text, known, given) for text in texts) if classed else ()
    else:
        files = tuple(file.relative_to(base).as_posix() for file in find_images(given))
        parents = [_plain(file.split("/")[0]) if "/" in file else "" for file in files]
        classed = not ood and all(parent in known for parent in parents)
        labels = tuple(known[parent] for parent in parents) if classed else ()
    return ImageSet(
        name or (given.name if given.is_dir() else given.stem) or str(given),
        base,
        files,
        labels or (OOD_LABEL if ood else 0,) * len(files),
        classed=classed or ood,
        as_stored=False,
    )


def read_as_stored(path: str | PathLike[str]) -> Image.Image:
    """Read a file as OpenOOD's reader does: pixels as stored, transparency dropped, what is left of truncated files.

    Unlike `tanl.io.images.read_image`, the EXIF orientation is not applied. What is missing of a truncated file is what
    its decoder leaves there: grey in a JPEG, black in a PNG.

    Raises:
        UnreadableImage: the file is missing, empty or not an image.
    """
    try:
        content = Path(path).read_bytes()
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


def _listed_set(source: Source, root: Path) -> ImageSet | None:
    if source.table:
        return _tabled_set(source, root)
    lists = [root / imglist for imglist in source.imglists]
    if not lists or not all(file.is_file() for file in lists):
        return None
    entries = [entry for file in lists for entry in read_imglist(file)]
    if source.wnids:
        entries = _of_classes(source, entries)
    files = tuple(entry.path for entry in entries)
    for folder in source.images:
        # Of a set that is there in part, the missing files are counted when it is encoded.
        if any((root / folder / file).is_file() for file in files):
            labels = tuple(entry.label for entry in entries)
            return ImageSet(source.name, root / folder, files, labels, expected=source.count)
    return None


def _of_classes(source: Source, entries: Sequence[Entry]) -> list[Entry]:
    from .class_names import imagenet_index

    number = {imagenet_index(wnid): label for label, wnid in enumerate(source.wnids)}
    chosen = [Entry(entry.path, number[entry.label]) for entry in entries if entry.label in number]
    if not chosen:
        raise ValueError(f"{', '.join(source.imglists)}: no image of the classes of {source.name}")
    return chosen


def _tabled_set(source: Source, root: Path) -> ImageSet | None:
    for folder in source.images:
        table = root / folder / source.table
        if table.is_file():
            rows = _read_table(table, source.columns, source.keep)
            files = tuple(inside(file) for file, _ in rows)
            labels = tuple(_class(label, {}, table) for _, label in rows)
            return ImageSet(source.name, root / folder, files, labels, expected=source.count)
    return None


def _whole_folder(source: Source, root: Path) -> ImageSet | None:
    for folder in source.folders:
        base = root / folder
        try:
            paths = find_images(base)
        except (FileNotFoundError, ValueError):  # no such folder, or no image in it
            continue
        files = [path.relative_to(base).as_posix() for path in paths]
        labels = [OOD_LABEL] * len(files)
        if source.class_folders:
            names = sorted({file.split("/")[0] for file in files})
            number = {name: label for label, name in enumerate(names)}
            labels = [number[file.split("/")[0]] for file in files]
        return ImageSet(source.name, base, tuple(files), tuple(labels), expected=source.count)
    return None


def _stored_by_torchvision(source: Source, root: Path) -> ImageSet | None:
    from .download import TORCHVISION, torchvision_set

    if source.fetch not in TORCHVISION:
        return None
    found = torchvision_set(source.fetch, root)
    return None if found is None else replace(found, name=source.name, expected=source.count)


def _absent(source: Source, root: Path) -> str:
    fetched = "; or fetch it with --download" if source.fetch else ""
    return (
        f"the set {source.name} is not in {root}: looked for {wanted(source)}. "
        f"Get it from {source.where}{fetched}. --data-root or TANL_DATA names another folder"
    )


def _read_table(file: Path, columns: tuple[str, str], keep: tuple[str, str] | None) -> list[tuple[str, str]]:
    """Path and label of each row of a CSV file; the label is empty where there is no such column."""
    path_column, label_column = columns
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        header = reader.fieldnames or ()
        for wanted in (path_column, *(keep[:1] if keep else ())):
            if wanted not in header:
                raise ValueError(f"{file} has no column {wanted!r}; it has {', '.join(header) or 'none'}")
        rows: list[tuple[str, str]] = []
        for row in reader:
            if keep is not None and row[keep[0]] != keep[1]:
                continue
            path = (row[path_column] or "").strip()
            if not path:
                raise ValueError(f"{file}, line {reader.line_num}: no path")
            rows.append((path, (row.get(label_column) or "").strip()))
    if not rows:
        raise ValueError(f"{file} lists no images")
    return rows


def _class(text: str, known: dict[str, int], file: Path) -> int:
    if _plain(text) in known:
        return known[_plain(text)]
    try:
        number = int(text)
    except ValueError:
        names = f" nor a class: {_listed(tuple(known))}" if known else ""
        raise ValueError(f"{file}: the label {text!r} is neither a number{names}") from None
    if number < 0 or (known and number >= len(known)):
        raise ValueError(f"{file}: the label {number} is not a class of the ID set")
    return number


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


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
