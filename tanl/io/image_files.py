"""Image files in folders: which there are, and what was passed over."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from .paths import local_path

# fmt: off
SUFFIXES: frozenset[str] = frozenset({
    ".apng", ".avif", ".bmp", ".dcm", ".dib", ".dicom", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif",
    ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif",
    ".tiff", ".webp",
})
# fmt: on
"""The endings, in lower case, by which :func:`find_images` knows an image in a folder."""

_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, of either byte order
    b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000, in its container and without it
    b"\xff\x4f\xff\x51",
)
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_HEAD = 4096
_NAMED = 4  # kinds of files passed over that are named


@dataclass(frozen=True)
class Found(Sequence[Path]):
    """What `find_images` found: a sequence of images, and what else there was.

    Attributes:
        paths: the images, sorted.
        passed_over: what else was there, and how often: ``{".txt file": 3, "linked folder": 1}``.
        unreadable: folders that could not be listed, each with its error; what they hold is not among the others.
    """

    paths: tuple[Path, ...] = field(repr=False)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    unreadable: tuple[tuple[Path, OSError], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        return self.paths[index]

    def notes(self) -> list[str]:
        """What is to be told, a line each: "passed over 5 .mp4 files, 1 linked folder", and each unlisted folder."""
        kinds = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {kind}{'s' * (count > 1)}" for kind, count in kinds[:_NAMED]]
        if rest := sum(count for _, count in kinds[_NAMED:]):
            shown.append(f"{rest} other{'s' * (rest > 1)}")
        folders = [f"cannot list the folder {folder}: {reason(error)}" for folder, error in self.unreadable]
        return [f"passed over {', '.join(shown)}"] * bool(shown) + folders


def reason(error: OSError) -> str:
    """What an error of the file system says, without the path."""
    return error.strerror.lower() if error.strerror else str(error) or type(error).__name__


def reason_in_words(error: Exception) -> str:
    """What any error says of a file, in a line."""
    return (
        " ".join((reason(error) if isinstance(error, OSError) else str(error)).split())
        or type(error).__name__
    )


def find_images(path: str | os.PathLike[str], recursive: bool = True) -> Found:
    """The images at ``path``: a file whatever its ending, or the images in a folder.

    In a folder, images are known by their endings, in any case; a file without an ending, or with a number for one
    (``1.2.840.10008``), by its first bytes. All other files, and links to folders, which are not followed, are
    passed over and counted; so are hidden ones (a leading dot), but not counted. A sub-folder that cannot be listed is
    named, and the others are looked through.

    Args:
        path: a file or a folder.
        recursive: whether to descend into sub-folders; without it, sub-folders are passed over.

    Raises:
        FileNotFoundError: nothing is at ``path``.
        OSError: the folder itself cannot be listed.
        ValueError: the folder holds no image, or ``path`` is an address.
    """
    root = local_path(path)
    if not root.is_dir():
        if not root.exists():
            hint = (
                "; a pattern is filled in by the shell, where it stands without quotes and something fits it"
            )
            raise FileNotFoundError(
                f"there is no file or directory {root}{hint if re.search(r'[*?[]', str(root)) else ''}"
            )
        return Found((root,))
    paths: list[Path] = []
    passed_over: Counter[str] = Counter()
    unreadable: list[tuple[Path, OSError]] = []

    def unlisted(error: OSError) -> None:
        folder = Path(error.filename or root)
        if folder == root:
            raise error
        unreadable.append((folder, error))

    for folder, subfolders, names in os.walk(root, onerror=unlisted):
        visible = [name for name in subfolders if not name.startswith(".")]
        links = {name for name in visible if Path(folder, name).is_symlink()}
        passed_over["linked folder"] += len(links)
        subfolders[:] = [name for name in visible if name not in links] if recursive else []
        if not recursive:
            passed_over["sub-folder"] += len(visible) - len(links)
        for name in names:
            if name.startswith("."):
                continue
            file = Path(folder, name)
            if is_image_file(file):
                paths.append(file)
            else:
                suffix = file.suffix.lower()
                is_ending = suffix and not suffix[1:].isdecimal()
                passed_over[f"{suffix} file" if is_ending else "extensionless file"] += 1
    found = Found(tuple(sorted(paths)), dict(+passed_over), tuple(sorted(unreadable)))
    if not found:
        where = "in or below" if recursive else "directly in"
        reasons = [f"looked for {' '.join(sorted(SUFFIXES))}", *found.notes()]
        raise ValueError(f"there are no images {where} {root}: {'; '.join(reasons)}")
    return found


def is_image_file(file: Path) -> bool:
    """Whether a file in a folder counts as an image, by its ending or its first bytes; see `find_images`."""
    suffix = file.suffix.lower()
    if suffix in SUFFIXES:
        return True
    # DICOM goes by identifiers, which end in a number, or by names without an ending. Its index is no picture.
    if (suffix and not suffix[1:].isdecimal()) or file.name.upper() == "DICOMDIR":
        return False
    try:
        head = head_of(file)
    except OSError:
        return False
    return head.startswith(_SIGNATURES) or is_webp(head) or is_dicom(head) or is_heif(head)


def head_of(file: Path) -> bytes:
    """The first bytes of a regular file, enough to tell its format; of anything else (a pipe, say) none.

    Raises:
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        return b""
    with file.open("rb") as stream:
        return stream.read(_HEAD)


def is_webp(head: bytes) -> bool:
    """Whether a file with these first bytes is WebP."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_heif(head: bytes) -> bool:
    """Whether a file with these first bytes is of the family of HEIC and AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def is_dicom(head: bytes) -> bool:
    """Whether a file with these first bytes is DICOM; a very old one, without the preamble, is not told so."""
    return head[128:132] == b"DICM"
