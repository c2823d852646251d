"""A folder for whole files, on this machine or behind an address of fsspec: S3, Google Cloud Storage and others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from .atomic import PART, clear_leftovers, write_whole
from .paths import is_address, local_path


class Store(Protocol):
    """A folder of files that are written whole or not at all."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def names(self) -> dict[str, int]:
        """The files that are there, each with its bytes; hidden ones and leftovers of killed writes are left out.

        Raises:
            OSError: it cannot be listed.
        """

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """

    def write(self, name: str, content: bytes) -> None:
        """Put a file into its place; until then an older one stays.

        Raises:
            OSError: it cannot be written.
        """

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""


def open_store(path: str | os.PathLike[str]) -> Store:
    """The folder of this path or address; it is made if need be.

    Raises:
        ValueError: an address of a kind that fsspec does not know, or a file.
        ImportError: the library of such an address is not there.
        OSError: it cannot be made.
    """
    return AddressStore(path) if isinstance(path, str) and is_address(path) else FolderStore(local_path(path))


class FolderStore:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file, and partitions need a folder; name another")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @property
    def name(self) -> str:
        return os.fspath(self.folder)

    def names(self) -> dict[str, int]:
        clear_leftovers(self.folder)
        return {
            path.name: path.stat().st_size
            for path in self.folder.iterdir()
            if not path.name.startswith(".") and path.suffix != PART
        }

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        write_whole(self.folder / name, content)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


class AddressStore:
    """A folder behind an address. What is put there is put there whole: object stores know nothing else."""

    def __init__(self, address: str) -> None:
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise type(error)(f"{address} cannot be written: {error}") from error
        self._system: Any = system
        self._path, self._address = str(path).rstrip("/"), address.rstrip("/")
        self._system.makedirs(self._path, exist_ok=True)

    @property
    def name(self) -> str:
        return self._address

    def names(self) -> dict[str, int]:
        self._system.invalidate_cache(self._path)
        try:
            listed = self._system.ls(self._path, detail=True)
        except FileNotFoundError:  # an object store has no empty folders
            return {}
        files = {str(each["name"]).rsplit("/", 1)[-1]: each for each in listed if each["type"] == "file"}
        return {name: int(each["size"]) for name, each in files.items() if name and not name.startswith(".")}

    def read(self, name: str) -> bytes:
        return bytes(self._system.cat_file(f"{self._path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        try:
            self._system.pipe_file(f"{self._path}/{name}", content)
        except OSError as error:
            raise OSError(
                error.errno, error.strerror or str(error) or type(error).__name__, f"{self._address}/{name}"
            ) from error

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._path}/{name}")
