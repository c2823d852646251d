"""Files for `open_shards`: images one by one, and which files a folder or an address stands for."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..image_files import SUFFIXES, find_images
from ..paths import is_address, local_path
from .items import Item, Kind, Remote

_MOST_UNITS = 20_000
_TAR = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)


@dataclass(frozen=True)
class FilesUnit:
    """Image files, by their names as they were given.

    Attributes:
        names: paths, or addresses.
        base: the folder that relative paths start from, as workers may have another.
    """

    names: tuple[str, ...]
    base: str

    @property
    def rows(self) -> int:
        return len(self.names)

    @property
    def identity(self) -> str:
        return "\n".join(self.names)

    def items(self, skip: int = 0) -> Iterator[Item]:
        for name in self.names[skip:]:
            yield Item(name, Remote(name) if is_address(name) else os.path.join(self.base, name))  # noqa: PTH118


@dataclass(frozen=True)
class Found:
    """Image files, and what is to be told of what was passed over."""

    names: tuple[str, ...]
    notes: tuple[str, ...]
    unlisted: int


def images(given: Sequence[str | os.PathLike[str]], *, recursive: bool, seed: int | None) -> Found:
    """The image files that are named, or in folders that are."""
    names: list[str] = []
    notes: list[str] = []
    unlisted = 0
    for source in given:
        if is_address(source):
            names += _behind(str(source), recursive)
            continue
        found = find_images(source, recursive)
        names += [os.fspath(path) for path in found]
        notes += [note if note.startswith("cannot") else f"{source}: {note}" for note in found.notes()]
        unlisted += len(found.unreadable)
    if seed is not None:
        random.Random(seed).shuffle(names)
    return Found(tuple(names), tuple(notes), unlisted)


def units(names: Sequence[str], unit_rows: int) -> list[FilesUnit]:
    """Files in units of so many, in their order; of more where there would be very many units."""
    size = max(unit_rows, -(-len(names) // _MOST_UNITS))
    base = os.getcwd()  # noqa: PTH109
    return [FilesUnit(tuple(names[i : i + size]), base) for i in range(0, len(names), size)]


def kind_of(source: str | os.PathLike[str]) -> Kind:
    """What a path or an address holds, by its name, or by the names in the folder that it is."""
    text = os.fspath(source)
    if _TAR.search(text):
        return "webdataset"
    if text.lower().endswith(".parquet"):
        return "parquet"
    if is_address(text):
        system, path = filesystem(text)
        listed = system.ls(path, detail=False) if system.isdir(path) else []
        endings = {PurePosixPath(name).suffix.lower() for name in listed}
    else:
        folder = local_path(text)
        listed = [each.name for each in folder.iterdir()] if folder.is_dir() else []
        endings = {Path(name).suffix.lower() for name in listed if not name.startswith(".")}
    if ".parquet" in endings and not endings & SUFFIXES:
        return "parquet"
    if any(map(_TAR.search, map(str, listed))) and not endings & SUFFIXES:
        return "webdataset"
    return "images"


def named(given: Sequence[str | os.PathLike[str]], *endings: str) -> list[str]:
    """The files of these endings that are named, or in folders that are, sorted in each of them.

    Raises:
        FileNotFoundError: nothing of that name.
        ValueError: a folder without such files.
    """
    names: list[str] = []
    for source in given:
        text = os.fspath(source)
        for each in _spelled_out(text) if "{" in text else [text]:
            names += _of_address(each, endings) if is_address(each) else _of_path(each, endings)
    return names


def opened(name: str) -> IO[bytes]:
    """A file, wherever it is, open for reading.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_address(name):
        return local_path(name).open("rb")
    system, path = filesystem(name)
    file: IO[bytes] = system.open(path, "rb")
    return file


def size_of(name: str) -> int:
    """The bytes of a file, wherever it is."""
    if not is_address(name):
        return local_path(name).stat().st_size
    system, path = filesystem(name)
    return int(system.size(path))


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, by fsspec, and the path there.

    Raises:
        ValueError: an address of a kind that fsspec does not know.
        ImportError: its library is not there.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ImportError(f"{address} cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"{address} cannot be read: {error}") from error
    return system, str(path)


def _spelled_out(text: str) -> list[str]:
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ImportError(f"{text} needs webdataset: pip install 'tanl[ray]'") from error
    return list(braceexpand(text))


def _of_path(text: str, endings: Sequence[str]) -> list[str]:
    path = local_path(text)
    if path.is_dir():
        found = sorted(
            os.fspath(each) for each in path.iterdir() if each.name.lower().endswith(tuple(endings))
        )
        if not found:
            raise ValueError(f"the folder {text} holds no {' or '.join(endings)} file")
        return found
    if not path.exists():
        raise FileNotFoundError(f"there is no file or directory {text}")
    return [os.fspath(path)]


def _of_address(text: str, endings: Sequence[str]) -> list[str]:
    system, path = filesystem(text)
    if re.search(r"[*?[]", path):
        found = sorted(system.glob(path))
    elif system.isdir(path):
        found = sorted(
            name for name in system.ls(path, detail=False) if name.lower().endswith(tuple(endings))
        )
    else:
        found = [path] if system.exists(path) else []
    if not found:
        raise FileNotFoundError(f"there is nothing at {text}")
    return [str(system.unstrip_protocol(name)) for name in found]


def _behind(text: str, recursive: bool) -> list[str]:
    """The images behind an address."""
    system, path = filesystem(text)
    if system.isdir(path):
        listed = system.find(path) if recursive else system.ls(path, detail=False)
        found = sorted(name for name in listed if PurePosixPath(name).suffix.lower() in SUFFIXES)
    elif re.search(r"[*?[]", path):
        found = sorted(system.glob(path))
    else:
        found = [path] if system.exists(path) else []
    if not found:
        raise ValueError(f"there are no images at {text}")
    return [str(system.unstrip_protocol(name)) for name in found]
