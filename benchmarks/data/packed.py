"""Images that are installed as one archive in place of thousands of files: taken out once, into the cache.

A checkout and an editable installation have the images themselves; `setup.py` makes the archive for a wheel.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
import zipfile
from pathlib import Path

from tanl.io.cache import default_cache_dir
from tanl.io.cache_files import UNPACKED

ARCHIVE = "packed.zip"


def unpacked(folder: Path) -> Path:
    """Where a folder's files lie: in it, or where those of its archive were taken out to.

    They are taken out into ``unpacked`` in the cache, into a folder named by the archive's SHA-256: whole, or not at
    all, also where several processes do so at once.

    Raises:
        OSError: the cache cannot be written; the message says what to do.
    """
    archive = folder / ARCHIVE
    if not archive.is_file():
        return folder
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    target = default_cache_dir() / UNPACKED / digest
    if not target.is_dir():
        try:
            _take_out(archive, target)
        except OSError as error:
            raise OSError(
                f"the images of {folder.name} cannot be taken out into {target.parent}: {error}; set TANL_CACHE to a "
                "folder that can be written"
            ) from error
    return target


def _take_out(archive: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.part")
    part.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(part)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
