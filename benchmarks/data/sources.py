"""Where a set's images lie: OpenOOD's lists, a folder, torchvision's files, or a CSV file of one's own."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from tanl.io.image_files import find_images
from tanl.io.paths import local_path
from tanl.io.text import first_of

from .image_sets import ImageSet
from .imagenet import imagenet_index
from .imglist import OOD_LABEL, Entry, inside, read_imglist
from .splits import Source, wanted
from .torchvision_sets import TORCHVISION, torchvision_set

_SHOWN = 5  # how many classes a message names


def data_root(given: str | PathLike[str] | None = None) -> Path:
    """The folder with OpenOOD's layout: what was given, else ``TANL_DATA``, else ``data`` here."""
    return local_path(given or os.environ.get("TANL_DATA") or "data")


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
    given = local_path(path)
    known = {_plain(label): number for number, label in enumerate(classes or ())}
    base = given if given.is_dir() else given.parent
    if given.suffix.lower() == ".csv" and given.is_file():
        rows = _read_table(given, ("path", "label"), None)
        files = tuple(file for file, _ in rows)
        texts = [label for _, label in rows]
        classed = not ood and any(texts)
        labels = tuple(_class(text, known, given) for text in texts) if classed else ()
    else:
        files = tuple(file.relative_to(base).as_posix() for file in _all_images(given, tell=True))
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
            paths = _all_images(base)
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


def _all_images(path: Path, *, tell: bool = False) -> tuple[Path, ...]:
    """The images at a path, all of them: a set that lacks a folder would be another set.

    ``tell`` has what is passed over told. What is downloaded comes with lists and licences beside its images.
    """
    found = find_images(path)
    for folder, error in found.unreadable:
        raise PermissionError(error.errno, f"a part of {path} cannot be read: {error.strerror}", str(folder))
    if tell or found.passed_over.get("linked folder"):
        for note in found.notes():
            warnings.warn(f"{path}: {note}", stacklevel=2)
    return tuple(found)


def _stored_by_torchvision(source: Source, root: Path) -> ImageSet | None:
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
        names = f" nor a class: {first_of(tuple(known), _SHOWN)}" if known else ""
        raise ValueError(f"{file}: the label {text!r} is neither a number{names}") from None
    if number < 0 or (known and number >= len(known)):
        raise ValueError(f"{file}: the label {number} is not a class of the ID set")
    return number


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()
