"""What the photographs are: the manifest's rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..data.shipped import read_rows, write_rows

FOLDER = Path(__file__).parent

LICENCES = ("public domain", "CC0-1.0", "CC-BY-2.0", "CC-BY-4.0", "CC-BY-SA-4.0")
"""The licences that photographs ship under; ``LICENSES.md`` says which ones are under which."""


@dataclass(frozen=True)
class Row:
    """One photograph. ``file`` is relative to the manifest's folder, with forward slashes.

    ``label`` is what it shows, an animal's common name for animals, whose class of animals ``coarse`` is (else it is
    empty). ``source`` is where its author published it, ``origin`` its file in the package that it was taken from, and
    ``origin_sha256`` that file's.
    """

    file: str
    label: str
    set: str
    coarse: str
    author: str
    licence: str
    source: str
    package: str
    origin: str
    origin_sha256: str
    sha256: str

    @property
    def in_tracks(self) -> bool:
        """Whether tracks take the image: all do."""
        return True


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
