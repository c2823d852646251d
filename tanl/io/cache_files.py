"""What is in the cache: which files of tanl's, of what, how large."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .tensors import read_notes
from .text_store import FOLDER

UNPACKED = "unpacked"
"""The folder of the cache with what was taken out of archives, each in a folder named by a SHA-256."""

# Only what is named as tanl names its files is counted and taken away: the cache's folder may hold others' files.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNPACKED = re.compile(r"[0-9a-f]{64}(?:\.[0-9a-f]{12}\.part)?")
_FILE = re.compile(r"(?:[0-9a-f]{64}|[0-9]{20}-[0-9a-f]{8})\.safetensors(?:\.[0-9a-f]{12}\.part)?")


@dataclass(frozen=True)
class Kept:
    """Files of the cache that belong together.

    Attributes:
        what: "text" for the texts of one model; the kind of embeddings, such as "images"; "unpacked" for what was taken
            out of an archive.
        backbone: the name of the model; "" where it is not known.
        files: their paths.
        texts: how many texts they hold; 0 if they hold none.
        size: bytes.
    """

    what: str
    backbone: str
    files: tuple[Path, ...]
    texts: int
    size: int


def kept_in(cache: Path) -> list[Kept]:
    """What there is, the texts of each model first; nothing where there is no cache."""
    found: list[Kept] = []
    for folder in _folders(cache):
        if folder.name == FOLDER:
            found += [
                _kept(FOLDER, _files(each)) for each in _folders(folder) if _DIGEST.fullmatch(each.name)
            ]
        if folder.name == UNPACKED:
            for each in _folders(folder):
                if _UNPACKED.fullmatch(each.name):
                    files = tuple(sorted(path for path in each.rglob("*") if path.is_file()))
                    found.append(_kept(UNPACKED, files))
    for folder in _folders(cache):
        found.append(
            _kept("text of older versions" if folder.name == FOLDER else folder.name, _files(folder))
        )
    return [each for each in found if each.files]


def take_away(kept: Kept) -> None:
    """Delete the files, and their folder where it is empty then.

    Raises:
        OSError: one cannot be deleted.
    """
    if kept.what == UNPACKED:
        whole = next(each for each in kept.files[0].parents if each.parent.name == UNPACKED)
        shutil.rmtree(whole)
        return
    for path in kept.files:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others' files are in it
        kept.files[0].parent.rmdir()


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name) and path.is_file()))


def _kept(what: str, files: tuple[Path, ...]) -> Kept:
    backbone, texts = "", 0
    for path in files if what == FOLDER else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # damaged: reading it will tell
            notes = read_notes(path)
            backbone = notes["backbone"]
            texts += len(json.loads(notes["texts"]))
    return Kept(what, backbone, files, texts, sum(path.stat().st_size for path in files))
